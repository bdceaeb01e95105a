"""Diagnoses the installation, the accelerators and the work directory."""
