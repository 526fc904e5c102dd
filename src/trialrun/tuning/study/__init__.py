"""Studies and their trial queue."""
