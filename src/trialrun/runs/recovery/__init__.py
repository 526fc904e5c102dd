"""Recovery of runs that an outage or a killed process left unfinished."""
