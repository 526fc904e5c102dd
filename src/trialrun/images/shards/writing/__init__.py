"""Writing of shards, with an index beside them."""
