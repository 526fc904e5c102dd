"""Checkpoints of a run: the progress in them, and the identity of the run that resumes."""
