"""The demo: a small crawl made by code, every defect of the funnel planted in it, and the score against the plan."""
