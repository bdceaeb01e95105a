import dataclasses

import pytest
import tensorflow as tf

from tpu_train.checkpointing import run_identity as module
from tpu_train.checkpointing.run_identity import (
    check_same_run,
    identify_run,
    log_version_changes,
    software_versions,
)
from tpu_train.recipes.table import RECIPES


def test_the_identity_changes_with_the_recipe_and_the_labels(source):
    recipe = RECIPES["digits"]
    identity = identify_run(recipe, source, source)
    assert identify_run(recipe, source, source) == identity
    assert identify_run(dataclasses.replace(recipe, seed=9), source, source) != identity
    relabeled = dataclasses.replace(source, labels=source.labels[::-1].copy())
    assert identify_run(recipe, relabeled, source) != identity


def test_a_different_run_is_refused_with_all_differences():
    run = {"seed": 3, "model": "tiny", "classes": ["a", "b"]}
    check_same_run(run, {**run, "classes": ("a", "b")}, "w")  # JSON has lists, not tuples
    message = (
        r"w belongs to a different run \(seed 3, now 4; model 'tiny', now 'other'\): resume with"
    )
    with pytest.raises(ValueError, match=message):
        check_same_run(run, {**run, "seed": 4, "model": "other"}, "w")


def test_changed_versions_are_logged(monkeypatch):
    saved = software_versions()
    lines = []
    log_version_changes(saved, lines.append)
    assert not lines
    monkeypatch.setattr(tf, "__version__", "9.9")
    log_version_changes(saved, lines.append)
    assert len(lines) == 1
    assert "this process has 9.9: the results will not be bit-identical" in lines[0]


def test_another_onednn_setting_is_logged(monkeypatch):
    saved = {**software_versions(), "oneDNN": "on"}
    monkeypatch.setattr(module, "onednn_enabled", lambda: False)
    lines = []
    log_version_changes(saved, lines.append)
    assert lines == [
        "the checkpoint was written with oneDNN on, this process has off: the results will not be "
        "bit-identical"
    ]
