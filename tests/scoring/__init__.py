"""Tests of `trialrun.scoring`."""
