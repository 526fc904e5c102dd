"""Tests of writing shards."""
