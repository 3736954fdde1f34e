"""The HTTP service: serve an index and its encoder."""
