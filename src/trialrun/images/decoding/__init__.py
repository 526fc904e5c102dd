"""Decoding: image files to pixels, and pixels to a network's input."""
