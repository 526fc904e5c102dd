"""Batches and memory: parts of a batch, the memory that a batch needs, sizes that fit."""
