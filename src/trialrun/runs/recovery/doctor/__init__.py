"""Checks of this machine, the tracking store and its unfinished runs, and their repair.

Importing `environment` and `findings` loads neither torch nor MLflow, which may be broken.
"""
