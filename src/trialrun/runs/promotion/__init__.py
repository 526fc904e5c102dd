"""Promotion to an alias and its history."""
