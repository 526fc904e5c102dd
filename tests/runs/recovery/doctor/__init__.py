"""Tests of `trialrun doctor`."""
