"""The nouns: pairs, their columns, and the files that hold them."""
