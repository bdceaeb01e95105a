"""Checkpoints: when to save, what to restore, and why a run stops."""
