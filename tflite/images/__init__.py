"""Calibration and evaluation images from folders, archives and TFRecord shards."""
