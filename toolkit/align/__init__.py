"""How well image and text of a pair agree, measured on their features."""
