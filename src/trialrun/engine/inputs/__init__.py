"""Batches and what they are made of."""
