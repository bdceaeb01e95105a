"""Callbacks of a run: functions that are called with a record of what has happened.

``--callback=module:function`` names a function of one argument, a dictionary of JSON values with
"event" and "step". :data:`tpu_train.callbacks.records.EVENTS` lists the events and their values.
"""

# Short names of --callback; the packages that they need are extras of the same names.
NAMES = {
    "wandb": "tpu_train.callbacks.wandb_run:log_to_wandb",
    "mlflow": "tpu_train.callbacks.mlflow_run:log_to_mlflow",
}
