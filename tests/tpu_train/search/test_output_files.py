import csv
import dataclasses
import json

import pytest

pytest.importorskip("optuna")

from keras_effnet.cli import main as effnet
from keras_effnet.search_space import SPACES, canonical_form
from keras_effnet.variant_lookup import find_variant
from tests.tpu_train.search.fake_search import make_request
from tpu_train.search.leaderboard import COLUMNS
from tpu_train.search.output_files import write_outputs
from tpu_train.search.trial_record import COMPLETE, FAILED, PRUNED, TrialRecord, best_so_far

SMALL = SPACES["small"]
REFERENCE = {
    "network": "small",
    "parameters": 1000,
    "step_time": 0.01,
    "source": "measured, median of 15 steps",
    "unit": "seconds",
    "device": "1 replica on CPU <&>",
}


def _trial(number, accuracy, step_time, state=COMPLETE, **changes):
    point = SMALL.sample(number)
    record = TrialRecord(
        number,
        state,
        accuracy,
        SMALL.stages_of(point),
        network=point.name,
        blocks=canonical_form(point),
        parameters=1000 + number,
        flops=10**6,
        step_time=step_time,
        step_time_source=REFERENCE["source"],
        step_time_unit="seconds",
        device=REFERENCE["device"],
        accuracies={1: accuracy},
        rewards={1: accuracy},
    )
    return dataclasses.replace(record, **changes)


RECORDS = [
    _trial(0, 0.5, 0.02),
    _trial(1, 0.7, 0.03),
    _trial(2, 0.4, 0.01, PRUNED),
    _trial(3, 0.6, 0.04),
    _trial(4, 0.0, 0.01, FAILED, accuracies={}, rewards={}, reward=None, error="NaN <loss>"),
    _trial(5, 0.7, 0.03, duplicate_of=1),
    _trial(6, 0.1, 0.01, "running"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_outputs(make_request(folder), RECORDS, REFERENCE)
    return folder


def test_the_leaderboard_has_every_finished_trial(folder):
    with open(folder / "leaderboard.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["trial"]) for row in rows] == [1, 3, 0, 2, 4, 5]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "", "", ""]
    assert [row["pareto"] for row in rows] == ["1", "0", "1", "0", "0", "0"]
    assert {row["step_time_source"] for row in rows} == {REFERENCE["source"]}
    assert rows[-1]["duplicate_of"] == "1"


def test_the_best_network_is_accepted_like_a_name(folder, capsys):
    best = folder / "best.json"
    assert canonical_form(find_variant(best)) == RECORDS[1].blocks
    extra = json.loads(best.read_text())["extra"]
    assert (extra["trial"], extra["accuracy"], extra["device"]) == (1, 0.7, REFERENCE["device"])
    assert effnet(["cost", str(best)]) == 0
    assert effnet(["plan", str(best)]) == 0
    assert RECORDS[1].network in capsys.readouterr().out


def test_the_page_is_complete_and_loads_nothing(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert "1 replica on CPU &lt;&amp;&gt;" in page
    assert "NaN &lt;loss&gt;" in page
    for text in ("3 complete", "1 repeated networks", "1 ended early", "1 failed", "1 not finish"):
        assert text in page
    for name in ("pareto.svg", "rewards.svg"):
        assert (folder / name).read_text(encoding="utf-8").startswith("<svg xmlns=")


def test_a_study_without_a_result_has_a_page(tmp_path):
    write_outputs(make_request(tmp_path), [RECORDS[4]], REFERENCE)
    assert "1 failed" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "best.json").exists()


def test_one_trial_or_equal_rewards_can_be_plotted(tmp_path):
    for records in ([RECORDS[0]], [RECORDS[0], _trial(1, 0.5, 0.02)]):
        write_outputs(make_request(tmp_path), records, REFERENCE)
        assert "nan" not in (tmp_path / "pareto.svg").read_text(encoding="utf-8")


def test_the_best_reward_so_far_never_falls():
    assert best_so_far(RECORDS) == [(0, 0.5), (1, 0.7), (3, 0.7), (5, 0.7)]
