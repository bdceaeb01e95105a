"""Ahead-of-time compilation of the train step for a TPU, on a machine without one."""
