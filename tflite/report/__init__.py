"""The HTML and JSON report of a conversion or a comparison."""
