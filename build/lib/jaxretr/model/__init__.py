"""The encoder: architecture, modules, pure functions, weight files, tokenizer, and the `Encoder` class."""
