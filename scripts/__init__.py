"""Programs for those who work on trialrun."""
