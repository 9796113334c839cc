"""DanQing toolkit: raw crawl files in, a clean image-text dataset out.

The folders follow the data: source, text, fetch, image, embed, dedup, align, export; `recipe.py` is the
pipeline in order, `run/` executes it, `cli.py` is the command. docs/design.md is the contract.
"""

__version__ = "0.1.0"
