"""Diagnosis of an installation: what would keep a training from running, and how to fix it."""
