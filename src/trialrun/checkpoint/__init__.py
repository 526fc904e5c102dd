"""Checkpoints of training on disk, and the folder of a run that holds them."""
