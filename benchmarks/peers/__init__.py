"""Other trainers on the job that trialrun does, each a program of its own for its own environment.

Nothing but `__main__` imports from trialrun or from the other benchmarks.
"""
