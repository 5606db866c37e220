"""A run's files on disk, written and read back."""
