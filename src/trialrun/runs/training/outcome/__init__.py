"""What a training leaves behind: its result, report, model card and model."""
