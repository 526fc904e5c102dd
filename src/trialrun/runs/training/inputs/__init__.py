"""What a training reads: its data sets, their manifest and pictures of the images."""
