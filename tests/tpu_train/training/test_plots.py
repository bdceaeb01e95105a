import json
import os

from tpu_train.training.plots import plot_curves


def test_the_curves_are_a_png(tmp_path):
    records = [
        {"step": 3, "phase": 1, "loss": 1.0, "accuracy": 0.5},
        {"step": 3, "evaluation_accuracy_ema": 0.5, "evaluation_accuracy_non_ema": 0.25},
        {"step": 3, "phase": 1, "image_size": 32, "seconds": 1.0},
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(r) + "\n" for r in records))
    plot_curves(metrics, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "metrics.jsonl"]
