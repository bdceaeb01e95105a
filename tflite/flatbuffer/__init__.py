"""Reads and rewrites the .tflite format: ops, graph, metadata."""
