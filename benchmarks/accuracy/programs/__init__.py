"""Programs that train with other trainers, each run by the Python of its own environment.

Each takes one argument, a JSON object with the fields of `task.Task`, and prints a line
`valid_accuracy=NUMBER` after each epoch. None imports trialrun.
"""
