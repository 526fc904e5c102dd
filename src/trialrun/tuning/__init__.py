"""Optuna around runs: many trainings of one plan, judged and compared, the best one kept.

`plan` and `space` need neither torch nor MLflow nor Optuna, so that a wrong range is told at once.
"""
