"""The cache folder: its location, its size limit, eviction and leases."""
