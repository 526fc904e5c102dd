"""The evaluator `trialrun` of `mlflow.models.evaluate`, and the evaluation of data frames.

MLflow imports `evaluator` before the first evaluation of any model, so that module loads neither
torch nor the rest of the report.
"""
