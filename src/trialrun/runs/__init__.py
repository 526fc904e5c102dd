"""One tracked run, end to end. `plan` and `signals` need neither torch nor MLflow."""
