import importlib.metadata
import platform
import sys

import pytest

from tpu_train.tpu_compile import compiler

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "limit", "wanted"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (8.00T) exceeds available HBM (15.75G).",
            15.75 * GIB,
            8192 * GIB,
        ),
        (
            "Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm.",
            15.75 * GIB,
            20.5 * GIB,
        ),
        ("something else", 0, 0),
    ],
)
def test_memory_is_read_from_the_out_of_memory_message(message, limit, wanted):
    assert compiler.memory_limit(message) == limit
    assert compiler.memory_wanted(message) == wanted


def test_an_unsupported_machine_is_an_error(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(ValueError, match=r"only on Linux x86-64, and this machine is \w+ arm64"):
        compiler.check_machine()


def test_a_missing_package_is_an_error_with_the_install_command(monkeypatch):
    def version(package):
        if package == "libtpu":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(ValueError, match="libtpu is not installed") as error:
        compiler.check_machine()
    assert 'pip install "keras_effnet[plan]"' in str(error.value)


def test_a_custom_call_is_refused_with_its_name(topology):
    four = "tensor<4xf32>"
    text = f"""func.func @main(%a: {four}) -> {four} {{
      %0 = stablehlo.custom_call @ask_the_host(%a) : ({four}) -> {four}
      return %0 : {four}
    }}"""
    with pytest.raises(ValueError, match=r"The TPU compiler refuses the step: .*ask_the_host"):
        compiler.compile_stablehlo(text, topology.devices)
