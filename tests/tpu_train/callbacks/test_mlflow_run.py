import pytest

pytest.importorskip("mlflow")

import mlflow

from tpu_train.callbacks.mlflow_run import log_to_mlflow


@pytest.mark.slow
def test_a_resumed_run_continues_in_mlflow(first_run, second_run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for record in [*first_run, *second_run]:
        log_to_mlflow(record)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "flowers"
    assert run.data.tags["status"] == "complete"
    assert run.data.params["learning_rate"] == "0.1"
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert {(m.step, m.value) for m in losses} == {(2, 0.5), (4, 0.25), (6, 1 / 6)}
    assert run.data.metrics["evaluation_accuracy_ema"] == 0.75
