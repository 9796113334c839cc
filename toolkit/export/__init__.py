"""The last stage: the pairs that are left, as a dataset that others can load, check and cite."""
