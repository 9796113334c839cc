"""Near-duplicates, exactly: every edge, their connected components, and one survivor of each."""
