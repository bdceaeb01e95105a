"""Evaluates .tflite models: accuracy, agreement, SQNR, latency, delegates."""
