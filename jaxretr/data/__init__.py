"""Data: sources of text, hybrid batches, token batches."""
