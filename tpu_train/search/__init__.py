"""Architecture search: short trainings of points of a search space, and the network they favor."""
