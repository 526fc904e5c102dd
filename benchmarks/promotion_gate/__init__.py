"""Simulated error rates, power and coverage of the statistics of promotions."""
