"""Settings of a recipe that need evaluations during a phase: early stopping and plateau."""

from __future__ import annotations

from tpu_train.recipes.schema import Recipe


def setting_by_evaluations(recipe: Recipe) -> str:
    """The flag of a recipe that needs evaluations during a phase; "" if there is none."""
    if recipe.learning_rate_schedule == "plateau":
        return "--learning_rate_schedule=plateau"
    return "--early_stopping_patience" if recipe.early_stopping_patience else ""


def check_phases_without_evaluations(recipe: Recipe) -> None:
    """Raises ``ValueError`` for a recipe that needs evaluations during a phase."""
    setting = setting_by_evaluations(recipe)
    if setting:
        raise ValueError(
            f"{setting} needs evaluations during a phase, and this command evaluates only at the "
            "end of each phase: leave it out"
        )


def check_eval_epochs(recipe: Recipe, eval_epochs: float) -> None:
    """Raises ``ValueError`` for evaluations that a setting needs and the run would not have."""
    if eval_epochs < 0:
        raise ValueError(f"eval_epochs must be 0 or more, got {eval_epochs}")
    setting = setting_by_evaluations(recipe)
    if setting and not eval_epochs:
        raise ValueError(f"{setting} needs evaluations during a phase: give --eval_epochs=1")
