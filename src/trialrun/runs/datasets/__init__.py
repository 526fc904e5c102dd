"""Checking, converting and splitting datasets."""
