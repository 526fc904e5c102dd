"""Tests of trialrun.images.shards."""
