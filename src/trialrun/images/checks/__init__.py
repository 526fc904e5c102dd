"""Checks of image sets: classes, duplicates, groups."""
