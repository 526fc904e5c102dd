"""`python -m trialrun`, as `torchrun -m` needs it."""

from trialrun.cli import main

if __name__ == "__main__":
    main()
