"""Compiles every training phase for a TPU on a machine without one."""
