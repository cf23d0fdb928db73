"""What may leave a site: floors under counts, noisy steps and the ledger of what they cost, a log of what left."""
