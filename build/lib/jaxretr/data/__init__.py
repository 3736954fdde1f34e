"""Training and evaluation data: sources of text, hybrid batches, token batches."""
