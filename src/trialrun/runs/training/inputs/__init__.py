"""Inputs of a training: its data sets, their manifest and pictures of the images."""
