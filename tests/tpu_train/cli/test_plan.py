import dataclasses
import importlib.metadata
import platform
import sys

import pytest

from tpu_train.cli import plan as cli
from tpu_train.recipes.table import RECIPES
from tpu_train.tpu_compile import plan, topology
from tpu_train.tpu_compile.compiled_step import CompiledStep
from tpu_train.tpu_compile.plan import PhasePlan
from tpu_train.tpu_compile.topology import Topology

GIB = 2**30
V5E = Topology("v5e:2x4", (), 8, 16 * GIB, 200e12, 800e9, "0.0.42.1")


@pytest.fixture
def plans(monkeypatch):
    """The phase plans that the command prints; nothing is compiled."""
    phase_plans = []
    monkeypatch.setattr(topology, "open_topology", lambda name: V5E)
    monkeypatch.setattr(plan, "plan_phases", lambda *args, **kwargs: iter(phase_plans))
    return phase_plans


def _phase_plan(*, fits):
    return PhasePlan(1, 380, CompiledStep(512, fits, 4 * GIB, 0, 0, 2e12, 8, 0.0, 0, ""), 0, 2)


@pytest.mark.parametrize(("fits", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_says_whether_every_phase_fits(plans, capsys, fits, status):
    plans.append(_phase_plan(fits=fits))
    assert cli.main(["--recipe=digits"]) == status
    out = capsys.readouterr().out
    assert out.startswith("digits: efficientnetv2-b0, ")
    assert "v5e:2x4: 8 cores" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topolgy=v5e:2x2"], "topology"),
        (["--phase=first"], "--phase=first is not a list of phase numbers"),
        (["v5e:2x2"], "'v5e:2x2'"),
        (["--recipe=photo"], "photo"),
        (["--teacher=none.keras"], "--teacher=none.keras: there is no such file"),
        (["--topology=v9:2x2"], "Known: v3:2x2"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_compiler_is_one_line_and_status_2(monkeypatch, capsys):
    def version(package):
        if package == "libtpu":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert cli.main(["--recipe=digits"]) == 2
    err = capsys.readouterr().err
    assert "libtpu is not installed" in err
    assert 'pip install "keras_effnet[plan]"' in err
    assert err.count("\n") == 1


def test_flags_change_the_recipe_and_select_phases(plans, monkeypatch):
    calls = []
    monkeypatch.setattr(plan, "plan_phases", lambda *args, **_: calls.append(args) or iter(()))
    assert cli.main(["--recipe=digits", "--batch_size=512", "--phase=1,3", "--nosearch"]) == 0
    ((request, topology_arg, cache),) = calls
    assert request.recipe == dataclasses.replace(RECIPES["digits"], batch_size=512)
    assert topology_arg == V5E
    assert request.phases == [1, 3]
    assert request.search is False
    assert cache is None
