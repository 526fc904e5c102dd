"""Listing and scanning of the files of a dataset."""
