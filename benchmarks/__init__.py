"""Programs that measure speed, memory and accuracy, and print the figures as tables."""
