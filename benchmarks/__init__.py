"""Programs that print tables of figures."""
