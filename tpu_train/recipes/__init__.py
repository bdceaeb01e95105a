"""Training recipes: their fields, the published rows, and the phases that follow from a row."""
