"""Scoring of policies: one file per evaluator behind one interface."""
