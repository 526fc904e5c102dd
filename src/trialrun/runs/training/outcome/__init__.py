"""Outcome of a training: its result, report, model card and model."""
