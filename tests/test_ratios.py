"""The table of `make bench`; measuring takes half an hour and is not tested."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def ratios(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import ratios

    return ratios


def test_every_row_has_a_page_that_states_its_command(ratios):
    for row in ratios.BENCHMARKS:
        text = (ROOT / "docs" / "results" / row.page).read_text(encoding="utf-8")
        program = row.command.split()[1]
        assert (ROOT / program).is_file(), row
        assert program in text, row


def test_recorded_ratios_are_those_of_the_rows(ratios):
    keys = [row.key for row in ratios.BENCHMARKS]
    assert len(set(keys)) == len(keys)
    recorded = ratios.read_recorded()
    assert recorded.keys() <= set(keys)
    assert all(row["ratio"] > 0 and row["date"] and row["commit"] for row in recorded.values())


def test_a_failed_row_is_printed_and_is_the_status(ratios, monkeypatch, capsys, tmp_path):
    def measure(row):
        if row.against == "b":
            raise ValueError("no file")
        return 1.25

    rows = [
        ratios.Benchmark("work", name, "page.md", "python benchmarks/x.py", measure)
        for name in ("a", "b")
    ]
    monkeypatch.setattr(ratios, "BENCHMARKS", rows)
    monkeypatch.setattr(ratios, "RECORDED", tmp_path / "ratios.json")
    assert ratios.main(["--record"]) == 1
    printed = capsys.readouterr()
    assert "1.25" in printed.out
    assert "failed" in printed.out
    assert "work / b: no file" in printed.err
    assert list(ratios.read_recorded(tmp_path / "ratios.json")) == ["work / a"]


def test_an_unknown_row_is_an_error_with_the_names(ratios, capsys):
    with pytest.raises(SystemExit):
        ratios.main(["--only", "nothing"])
    assert "train step: efficientnet-b0" in capsys.readouterr().err
