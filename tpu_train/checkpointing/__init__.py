"""Checkpoints: writing and verifying them, when to save, when to stop, the work directory."""
