"""What may be changed about an input, and how far: balls around word embeddings, edits of text in every script.

Training (hardening) and attacks share these; who searches them for the worst is `jaxretr.attack`.
"""
