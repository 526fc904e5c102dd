"""Images to class probabilities, the same for bulk scoring and for serving."""
