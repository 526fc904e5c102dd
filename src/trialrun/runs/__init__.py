"""Runs in MLflow: training, evaluation and promotion, and the inspection of finished runs.

Importing `training.plan` or `signals` loads neither torch nor MLflow.
"""
