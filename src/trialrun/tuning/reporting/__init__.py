"""Logging of a search: parent run, plots, replicates and finished trials."""
