"""A benchmark's pairs and prompts, split by prompt."""
