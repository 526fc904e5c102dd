"""Hyperparameter search with Optuna: trials are nested runs, and the best model is registered.

Planning imports neither torch nor MLflow nor Optuna, so that invalid settings are reported fast.
"""
