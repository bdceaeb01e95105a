"""Post-training quantization: the plan, the pipeline and each of its steps."""
