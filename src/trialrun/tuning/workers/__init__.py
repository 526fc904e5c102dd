"""Worker processes, and the runner of single trials."""
