"""Encoders: images (and texts) to the float16 rows whose cosine says how similar they are."""
