"""The HTTP service: an index and its encoder."""
