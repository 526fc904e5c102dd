"""Programs that train the same network with other trainers, each in its own environment.

Only `__main__` imports trialrun or the other benchmarks.
"""
