"""Images and labels from any source to augmented training batches."""
