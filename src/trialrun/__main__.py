"""Runs the command line with `python -m trialrun`, which `torchrun -m trialrun` needs."""

from trialrun.cli import main

if __name__ == "__main__":
    main()
