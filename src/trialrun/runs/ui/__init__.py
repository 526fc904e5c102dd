"""MLflow's UI: its server, and the view of an experiment that trialrun prepares."""
