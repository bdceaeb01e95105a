import pytest

from keras_effnet.cli import main
from keras_effnet.plan import plan
from keras_effnet.variants import VARIANTS


def test_models_prints_a_row_for_every_variant(capsys, zoo):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("efficientnet")}
    assert list(rows) == list(VARIANTS)
    for name, row in rows.items():
        facts = zoo[name]
        assert row[1] == str(facts["image_size"])
        assert row[2] == str(sum(facts["repeats"]))
        assert row[3] == f"{facts['total']:,}"
        assert float(row[4]) == pytest.approx(
            facts.get("gmacs", facts.get("macs", 0) / 1e9), abs=6e-3
        )
    assert rows["efficientnet-b0"][5] == "77.1"
    assert rows["efficientnet-l2"][5] == "-"


def test_models_takes_a_pattern(capsys):
    assert main(["models", "*lite*"]) == 0
    out = capsys.readouterr().out
    assert "efficientnet-lite4" in out
    assert "efficientnet-b0" not in out


def test_plan_prints_the_blocks(capsys):
    assert main(["plan", "efficientnet-b3"]) == 0
    assert capsys.readouterr().out == f"{plan('efficientnet-b3')}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["plan", "efficientnet-b33"], "Did you mean 'efficientnet-b3'"),
        (["models", "*resnet*"], "No model matches '*resnet*'"),
    ],
)
def test_an_unknown_model_is_one_line_and_status_2(argv, said, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("argv", [[], ["build"], ["plan"]])
def test_a_command_that_is_none_ends_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert "usage: effnet" in capsys.readouterr().err
