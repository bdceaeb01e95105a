"""The Keras models that are converted: opening their files, and computing in float32."""
