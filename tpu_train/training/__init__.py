"""One training run: the loop, the step, evaluation, optimizers, export."""
