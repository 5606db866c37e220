"""A comparative benchmark suite for alignment methods: same SFT checkpoint, same pairs, same budget, one verdict."""
