import pathlib

import pytest

from keras_effnet.arguments import ArgumentParser
from keras_effnet.cli import cost as cost_cli
from keras_effnet.model_cost import cost
from keras_effnet.scaling import PUBLISHED_PHI, family, scale


@pytest.fixture
def run(capsys):
    """run("cost", "efficientnet-b0"): what the command prints."""

    def run(command, *argv):
        parser = ArgumentParser()
        getattr(cost_cli, f"add_{command}_arguments")(parser)
        getattr(cost_cli, f"run_{command}")(parser.parse_args(argv))
        return capsys.readouterr().out

    return run


def test_cost_prints_the_counted_cost(run):
    text = run("cost", "efficientnetv2-s", "--image_size=300", "--batch_size=32")
    c = cost("efficientnetv2-s", image_size=300, batch_size=32)
    assert text.startswith("efficientnetv2-s at 300 px")
    for number in (c.parameters, c.trainable, c.macs, c.activation_bytes):
        assert f"{number:,}" in text
    assert "32 images, float32" in text


def test_cost_accepts_no_top_classes_and_precision(run):
    text = run("cost", "efficientnet-b0", "--no_top", "--precision=bfloat16")
    c = cost("efficientnet-b0", include_top=False, bytes_per_value=2)
    assert f"{c.parameters:,}" in text
    assert f"{c.activation_bytes:,}" in text
    assert f"{cost('efficientnet-b0', classes=10).parameters:,}" in run(
        "cost", "efficientnet-b0", "--classes=10"
    )


def test_scale_prints_a_scaled_network(run):
    text = run("scale", "efficientnet-b0", "1.5")
    assert text.startswith("efficientnet-b0-phi1.5: ")
    assert f"{cost(scale('efficientnet-b0', 1.5)).parameters:,} parameters" in text
    assert "width 1.4, depth 1, 224 px" in run("scale", "efficientnet-b0", "--width=1.4")
    assert "depth 1.5," in run("scale", "efficientnet-b0", "1", "--alpha=1.5")


@pytest.mark.parametrize("base", PUBLISHED_PHI)
def test_scale_without_phi_prints_the_family(base, run):
    lines = run("scale", base).splitlines()
    assert len(lines) == 1 + len(PUBLISHED_PHI[base])
    for line, member in zip(lines[1:], family(base)):
        assert member.published.name in line
        assert f"{member.rule_cost.parameters:,}" in line
        assert f"{member.published_cost.parameters:,}" in line
    assert len({len(line) for line in lines}) == 1  # aligned


def test_scale_of_a_base_without_a_family_prints_the_rule_only(run):
    assert "px" not in run("scale", "efficientnetv2-s")
    assert len(run("scale", "efficientnetv2-s").splitlines()) == 5


@pytest.mark.parametrize("argv", [("1", "--width=1.1"), ("nan",)])
def test_invalid_scalings_are_value_errors(argv, run):
    with pytest.raises(ValueError, match=r"efficientnet-b0|phi"):
        run("scale", "efficientnet-b0", *argv)


def test_the_table_in_the_docs_is_the_printed_one(run):
    docs = pathlib.Path(__file__).resolve().parents[3] / "docs" / "scaling.md"
    assert run("scale", "efficientnet-b0") in docs.read_text(encoding="utf-8")
