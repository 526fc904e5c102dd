"""Reading, comparing and reproducing runs."""
