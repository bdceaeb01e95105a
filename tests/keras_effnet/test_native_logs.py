import os
import pathlib
import signal
import subprocess
import sys

import pytest

from keras_effnet.native_logs import is_noise

ROOT = pathlib.Path(__file__).resolve().parents[2]
START = "import os, sys; from keras_effnet.native_logs import filter_native_logs as f; f(); "
ERROR = "E0000 00:00:1795746889.420959   16884 kernel.cc:52] Out of memory"
NATIVE = f"os.write(2, b'{ERROR}\\n'); "

NOISE = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795746879.685444   16884 port.cc:153] oneDNN custom operations are on. You may",
    "I0000 00:00:1795746879.685781   16884 cudart_stub.cc:31] Could not find cuda drivers on your",
    "E0000 00:00:1795746889.420959   16884 cuda_platform.cc:52] failed call to cuInit: INTERNAL",
    "2026-11-27 19:54:46.517148: E external/local_xla/xla/stream_executor/"
    "stream_executor_internal.h:177] SetPriority unimplemented for this stream.",
    "W0000 00:00:1795746908.348420   16884 dataset.cc:997] Input of GeneratorDatasetOp::Dataset",
    "E0000 00:00:1795754100.462968   30077 util.cc:131] oneDNN supports DT_UINT8 only on platforms "
    "with AVX-512. Falling back to the default Eigen-based implementation if present.",
    "E0000 00:00:1732.5   1 computation_placer.cc:177] computation placer already registered.",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with",
    "2026-11-27 02:36:36.135290: I tensorflow/core/util/port.cc:113] oneDNN custom operations",
    "2026-11-27 02:36:36.567437: E external/local_xla/xla/stream_executor/cuda/cuda_dnn.cc:9261] "
    "Unable to register cuDNN factory: Attempting to register factory for plugin cuDNN",
    "2026-11-27 02:36:40.027434: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
]
NOT_NOISE = [
    ERROR,
    "F0000 00:00:1795746889.420959   16884 tensor.cc:52] Check failed: dtype() == expected_dtype",
    "2026-11-27 02:36:36.567437: E tensorflow/core/framework/op_kernel.cc:12] OOM when allocating",
    "2026-11-27 02:36:36.567437: F tensorflow/core/platform/env.cc:74] Check failed: ret == 0",
    "Fatal Python error: Segmentation fault",
    "Illegal instruction",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "",
]


def run(code, *, python=(), stderr=subprocess.PIPE, **environment):
    variables = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *python, "-c", START + code],
        cwd=ROOT,
        env={**variables, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=60,
    )


def write(lines):
    return "".join(f"os.write(2, {(line + chr(10)).encode()!r}); " for line in lines)


def test_known_start_up_lines_are_noise_and_others_are_not():
    assert [line for line in NOISE if not is_noise(line.encode())] == []
    assert [line for line in NOT_NOISE if is_noise(line.encode())] == []


@pytest.mark.parametrize(("level", "hidden"), [("0", ""), ("1", "I"), ("2", "IW"), ("3", "IWE")])
def test_the_log_level_hides_the_severities_that_it_names(level, hidden):
    for severity in "IWEF":
        assert is_noise(f"{severity}0000 00:00:17.5  1 a.cc:1] b".encode(), level) == (
            severity in hidden
        )


def test_noise_is_dropped_and_everything_else_arrives_in_order():
    result = run(write([*NOISE, *NOT_NOISE, *NOISE, "last"]))
    assert (result.returncode, result.stderr.splitlines()) == (0, [*NOT_NOISE, "last"])


def test_log_level_0_filters_nothing():
    assert run(write(NOISE), TF_CPP_MIN_LOG_LEVEL="0").stderr.splitlines() == NOISE


def test_a_traceback_appears_with_exit_status_1():
    result = run("raise RuntimeError('wrong')")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "RuntimeError: wrong"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("sys.exit(3)", 3),
        ("os._exit(3)", 3),
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), 11)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
def test_the_last_native_line_survives_every_kind_of_exit(end, status):
    result = run(NATIVE + end)
    assert (result.returncode, result.stderr) == (status, ERROR + "\n")


def test_faulthandler_reports_a_segmentation_fault():
    result = run("os.kill(os.getpid(), 11)", python=("-X", "faulthandler"))
    assert "Segmentation fault" in result.stderr


def test_output_of_child_processes_is_filtered_too():
    code = f"import subprocess; subprocess.run(['sh', '-c', 'echo \"{NOISE[1]}\" >&2; echo a >&2'])"
    assert run(code).stderr == "a\n"


def test_ctrl_c_interrupts_the_program_but_not_the_filter():
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    {NATIVE}raise"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", START.replace("; ", "\n") + code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert "KeyboardInterrupt" in stderr.splitlines()
    assert ERROR in stderr
    assert process.returncode == -signal.SIGINT


def test_python_still_writes_to_the_terminal():
    pty = pytest.importorskip("pty")
    reader, terminal = pty.openpty()
    result = run("print(sys.stderr.isatty(), os.isatty(2))", stderr=terminal)
    os.close(terminal)
    os.close(reader)
    assert result.stdout == "True False\n"


def test_absl_warnings_are_hidden_and_errors_are_not():
    pytest.importorskip("absl")
    result = run("from absl import logging; logging.warning('noise'); logging.error('wrong')")
    assert "noise" not in result.stderr
    assert "wrong" in result.stderr
