"""Computing of requests: the model, its batches, and the version that an alias names."""
