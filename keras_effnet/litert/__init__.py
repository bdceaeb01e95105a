"""Reads and runs .tflite image models from any tool; needs the extra ``keras_effnet[tflite]``."""
