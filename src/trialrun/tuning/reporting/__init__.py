"""What a search writes to MLflow."""
