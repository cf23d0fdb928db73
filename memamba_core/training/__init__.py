"""The only loop over patients, its optimizers, seeds and checkpoints."""
