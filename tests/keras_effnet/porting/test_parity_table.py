"""docs/results/parity.md is complete and within the bound, and its command works."""

import pathlib
import re

import pytest

from tools import foreign, parity

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "results" / "parity.md"
BOUND = 1e-4  # relative
SMALLEST = {
    "keras-applications": "efficientnetv2-b0",
    "qubvel": "efficientnet-b0",
    "leondgarse": "efficientnetv2-b0",
    "tensorflow": "efficientnet-lite0",
    "timm": "tf_efficientnet_lite0",
    "torchvision": "efficientnet_b0",
    "lukemelas": "efficientnet-b0",
    "efficientnet-lite-pytorch": "efficientnet-lite0",
}
SLOW = ("timm", "qubvel")


def _published():
    """{(source, network in the source): the other cells}."""
    rows, source = {}, None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            source = line[3:]
        elif line.startswith("| ") and not line.startswith("| network"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[source, name] = cells
    return rows


def test_the_published_table_has_every_network():
    assert sorted(_published()) == sorted(parity.cases())


def test_the_published_differences_are_within_the_bound():
    for case, (_, mapped, blocks, _, output) in _published().items():
        have, want = re.fullmatch(r"(\d+) of (\d+)", mapped).groups()
        assert have == want, case
        assert float(output) <= BOUND, case
        assert blocks == "-" or float(blocks) <= BOUND, case


@pytest.mark.tensorflow_only("JAX compiles every operation of a whole network")
@pytest.mark.parametrize(
    "source",  # one with and one without a network to compare with
    [
        pytest.param(source, marks=pytest.mark.slow if source in SLOW else pytest.mark.exhaustive)
        for source in SMALLEST
    ],
)
def test_the_command_measures_every_project(keras, source, request):
    if source in ("timm", "torchvision", *foreign.LUKEMELAS_PACKAGES):
        request.getfixturevalue("torch_projects")
    if source in foreign.LUKEMELAS_PACKAGES:
        pytest.importorskip(foreign.LUKEMELAS_PACKAGES[source])
    row = parity.measure(source, SMALLEST[source])
    assert row.mapped == row.total > 200
    assert row.output <= BOUND
    assert not row.blocks > BOUND  # NaN if the project's network cannot be run
    assert f"| {row.name} | {row.variant} |" in parity.table([row], 64)
