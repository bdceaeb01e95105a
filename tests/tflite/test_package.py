import doctest
import subprocess
import sys

import pytest

from keras_effnet.litert import ops


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_needs_neither_tensorflow_nor_litert():
    code = (
        "import sys, tflite, tflite.cli;"
        "print([m for m in ('tensorflow', 'keras', 'ai_edge_litert', 'PIL') if m in sys.modules])"
    )
    assert _python(code).stdout.strip() == "[]"


def test_missing_extra_names_what_to_install():
    code = (
        "import sys; sys.modules['ai_edge_litert'] = sys.modules['ai_edge_quantizer'] = None;"
        "import tflite; tflite.read_ops(b'')"
    )
    last = _python(code).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert 'pip install "keras_effnet[tflite]"' in last


@pytest.mark.parametrize("module", [ops])
def test_docstring_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
