"""What the suite measures of itself: speed, scale, passes, optimum, coverage."""
