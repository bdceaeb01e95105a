"""benchmarks/fused.py: its networks, and the table that it writes."""

import pytest

from benchmarks import fused
from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan


@pytest.mark.parametrize("name", fused.PAPER)
def test_fused_b4_has_the_papers_parameters_and_multiply_adds(name):
    counted = cost(fused.network(name))
    millions, billions = fused.PAPER[name][:2]
    assert counted.trainable / 1e6 == pytest.approx(millions, rel=0.03)
    assert counted.macs / 1e9 == pytest.approx(billions, rel=0.03)


def test_fused_stages_are_the_first_ones():
    for names in fused.STUDIES.values():
        for name, stages in names.items():
            for block in plan(fused.network(name)).blocks:
                assert (block.op == "fused") == (int(block.name[5]) <= stages), (name, block.name)
    assert plan(fused.network("no fused")).blocks == plan("efficientnet-b4").blocks
    assert plan(fused.network("V2-S")).blocks == plan("efficientnetv2-s").blocks


def _row(flops, moved, fits=True):
    seconds = max(flops, moved) if fits else None
    return {
        "fits": fits,
        "flops_seconds": flops,
        "bytes_seconds": moved,
        "roofline_seconds": seconds,
    }


def test_the_table_has_ratios_of_the_same_turns():
    results = {
        "tpu": {
            "no fused": {"v3:2x2": _row(0.05, 0.2)},
            "fused stages 1-3": {"v3:2x2": _row(0.1, 0.05)},
            "fused stages 1-7": {"v3:2x2": _row(0.0, 0.0, fits=False)},
        },
        "cpu": {
            "seconds": {
                "no fused": [[9.0, 1.0], [9.0, 2.0], [9.0, 1.0]],
                "fused stages 1-3": [[9.0, 1.5], [9.0, 3.0], [9.0, 2.0]],
            }
        },
    }
    lines = fused.table(results).splitlines()
    assert len(lines) == 2 + len(fused.baselines())
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    by_title = [dict(zip(cells[0], row)) for row in cells[2:]]
    assert {len(row) for row in cells} == {len(cells[0])}
    first, early, middle, all_stages, *v2 = by_title
    assert [row["paper: TPUv3"] for row in v2] == ["-"] * 3
    assert early["v3:2x2, relative"] == "0.50"
    assert early["CPU, relative (lowest to highest)"] == "1.50 (1.50 to 2.00)"
    assert early["paper: TPUv3"] == "0.72"
    assert first["CPU, relative (lowest to highest)"].startswith("1.00 (")
    assert middle["v3:2x2, relative"] == middle["CPU, processor s"] == "-"
    assert all_stages["v3:2x2, ms: FLOPs / bytes"] == "does not fit"


def test_a_document_that_does_not_exist_is_refused_at_once(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fused.main([f"--doc={tmp_path / 'no.md'}", f"--results={tmp_path / 'r.json'}"])
    assert "no.md does not exist: give a Markdown file" in capsys.readouterr().err
