"""Segments: the files that hold decoded images, keyed by the content of the image files."""
