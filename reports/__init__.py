"""How a run is shown: one HTML page and Markdown from what is on disk."""
