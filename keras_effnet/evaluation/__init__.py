"""Evaluation of classifiers: metrics, with their intervals, and the page that shows them."""
