"""The clinical table: patients, follow-up, events and slides, and what about them may be a mistake."""
