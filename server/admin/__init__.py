"""Administration of the coordinator's folder: certificates, roster, kits for sites."""
