"""Privacy of a site: thresholds of disclosure, noisy training steps and the ledger of their cost, the egress log."""
