"""Noisy Student training: pseudo-labels of a teacher, and rounds of teachers and students."""
