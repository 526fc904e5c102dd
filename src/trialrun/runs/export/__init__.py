"""Export of models: files for other programs, and versions with a certified faster engine."""
