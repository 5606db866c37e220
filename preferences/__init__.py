"""The sources of comparisons: read, sampled, labelled, checked, converted."""
