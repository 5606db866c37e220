"""The report of a run: one HTML page and Markdown from what is on disk."""
