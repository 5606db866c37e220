"""The cost of a training step, counted without data."""
