"""What is compared, and the one loop that compares it."""
