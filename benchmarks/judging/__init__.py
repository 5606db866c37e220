"""Judges beside a run: their bill, labels of people, and what was found."""
