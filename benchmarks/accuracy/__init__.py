"""Time to a stated validation accuracy, of trialrun and of other trainers."""
