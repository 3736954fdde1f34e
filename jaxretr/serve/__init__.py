"""The service: an index and its encoder over HTTP."""
