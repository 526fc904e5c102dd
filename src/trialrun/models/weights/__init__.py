"""Weights of networks: their files, where they come from, and how they fit a network."""
