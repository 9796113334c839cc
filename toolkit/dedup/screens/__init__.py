"""The screens of the exact join: faster ways to see that pairs are no edges, each with a proven bound."""
