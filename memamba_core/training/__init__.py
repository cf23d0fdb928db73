"""Training loops, ordinary and under differential privacy; optimizers, seeds, batches and checkpoints."""
