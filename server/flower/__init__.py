"""Code of the coordinator that uses Flower's private names: SuperLink, control interface, network Grid."""
