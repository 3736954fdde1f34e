"""The encoder: architecture, modules, pure functions, weights in and out, tokenizer, and the `Encoder` class."""
