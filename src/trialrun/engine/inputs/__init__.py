"""Inputs of training: batches, augmentation, random seeds and backbone features."""
