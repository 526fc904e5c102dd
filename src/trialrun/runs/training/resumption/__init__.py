"""What a resumed run continues from: checkpoints, the progress in them, and its identity."""
