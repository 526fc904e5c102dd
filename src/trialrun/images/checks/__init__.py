"""Checks of an image set: classes, duplicates, groups."""
