"""Tests of `trialrun.runs.export`."""
