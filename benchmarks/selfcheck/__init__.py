"""Measurements of the suite itself: speed, scale, passes, optimum, coverage."""
