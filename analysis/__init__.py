"""What scores say: intervals, comparisons, ratings, summary, verdict; no torch and no model."""
