"""The coordinator's folder: certificates, roster, kits for sites."""
