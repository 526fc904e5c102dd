"""The evaluator `trialrun` of `mlflow.models.evaluate`, and the evaluation of data frames.

MLflow imports `evaluator` when it is imported itself, so that module loads nothing else.
"""
