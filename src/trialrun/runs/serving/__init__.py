"""Serving of a model that MLflow or a folder has."""
