"""Text refinement: the words of the corpus, and each caption's language, quality, density and safety."""
