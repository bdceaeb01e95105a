"""One training run: the phase loop, the traced step, evaluation, optimizers, export."""
