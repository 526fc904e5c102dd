"""Bulk scoring: a stream of images to a table, continued after an interruption."""
