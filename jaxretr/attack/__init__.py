"""Adversarial robustness: search for the inputs that hurt a retriever most, and measure retrieval on these inputs."""
