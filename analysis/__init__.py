"""Statistics of scores: intervals, comparisons, ratings, summary, verdict; no torch and no model."""
