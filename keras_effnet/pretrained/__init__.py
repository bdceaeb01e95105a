"""Pretrained weights: which exist, where they come from, and loading them into a model."""
