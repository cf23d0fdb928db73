"""Approval of a coordinator's runs by the operator of the site (`approve` in `site.yaml`)."""
