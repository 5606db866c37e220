"""Comparisons of methods, and the one loop that makes them."""
