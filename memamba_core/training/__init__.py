"""The loop over patients, and the private one beside it; optimizers, seeds, deltas and checkpoints."""
