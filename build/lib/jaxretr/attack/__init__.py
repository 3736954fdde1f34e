"""Adversarial robustness: searches for the input that hurts a retriever most, and measures of what they find."""
