"""The cost of what a run does: counted without data, reckoned from counts, or timed on a few rows."""
