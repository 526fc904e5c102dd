"""Figures of a report, as PNG; nothing here writes a file."""
