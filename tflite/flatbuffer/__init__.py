"""Rewrites .tflite files: the graph, and changes that no converter makes."""
