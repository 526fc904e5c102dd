"""Shards: files that hold many images each, on this machine or in an object store."""
