"""Command lines of the trainer: flags only; what they start lives in the modules."""
