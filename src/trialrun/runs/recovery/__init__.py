"""Recovery of interrupted runs: they are found, continued or ended."""
