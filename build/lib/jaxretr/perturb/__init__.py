"""What an adversary may change, and how far: balls around word embeddings, edits of text in every script.

Hardening and attacks share these definitions. `jaxretr.attack` searches them for the worst case.
"""
