"""From raw crawl files to pairs: reading, extraction, language, the first per-pair steps, and exact uniqueness."""
