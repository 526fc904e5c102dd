"""Programs for the development of trialrun."""
