"""Training: loss, optimiser, step, checkpoints, loop."""
