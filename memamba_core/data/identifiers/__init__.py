"""Identifiers of patients and slides: their one form, and rows and files that nearly match."""
