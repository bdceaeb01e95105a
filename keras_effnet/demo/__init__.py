"""A local page that shows what a classifier sees in a photo."""
