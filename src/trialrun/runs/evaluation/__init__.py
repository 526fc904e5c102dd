"""Evaluation and scoring."""
