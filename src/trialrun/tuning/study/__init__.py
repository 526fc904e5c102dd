"""Studies, their storage and their trial queue."""
