"""The training engine: it computes, and neither prints, logs, saves nor reads a file."""
