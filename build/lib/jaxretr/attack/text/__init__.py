"""Black-box attacks on the text of queries: the search, and the attack that uses it."""
