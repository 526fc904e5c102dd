"""Processes that train trials."""
