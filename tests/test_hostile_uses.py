"""What nobody should do with the three commands, as a table: one clear line, and nothing is lost.

After each row, all files are as before, except for those that the row names; none is half-written.
"""

import contextlib
import io
import os
import pathlib
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_quantizer", reason='needs pip install "keras_effnet[tflite]"')

import keras_effnet.cli
import tflite.cli
import tpu_train.cli
from keras_effnet import create_model
from tests.conftest import TINY
from tflite.export import export_float32

ROOT = pathlib.Path(__file__).resolve().parents[1]
_MAIN = {
    "effnet": keras_effnet.cli.main,
    "effnet-train": tpu_train.cli.main,
    "effnet-tflite": tflite.cli.main,
}
_PYTHON = "import sys; from {}.cli import main; sys.exit(main())"


def _png_bomb():
    """A PNG that claims 16,000 x 14,000 pixels."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 16000, 14000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _edited(model, path, name, content):
    """A copy of a .keras file with another content of one of its files."""
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry == name else old.read(entry))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, photos, labels, and everything that is wrong with others of them."""
    folder = tmp_path_factory.mktemp("uses")
    model = create_model(TINY, weights=None, input_shape=(32, 32, 3), classes=2)
    model.save(folder / "m.keras")
    (folder / "f.tflite").write_bytes(export_float32(model))
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "o").mkdir()
    random = np.random.default_rng(0)
    for name in ("flat", "odd", "classes/a", "classes/b"):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            pixels = random.integers(0, 256, (36, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    _add_odd_images(folder / "odd")
    _add_wrong_files(folder)
    return folder


def _add_odd_images(odd):
    rgb = Image.open(odd / "0.png").convert("RGB")
    grey16 = Image.fromarray((np.arange(1600).reshape(40, 40) * 40).astype(np.uint16))
    for name, content in {
        "-rf.png": _encoded(rgb, "PNG"),
        "two\nlines.png": _encoded(rgb, "PNG"),
        "x" * 251 + ".png": _encoded(rgb, "PNG"),
        "animated.gif": _encoded(rgb, "GIF", save_all=True, append_images=[rgb] * 3),
        "cmyk.jpg": _encoded(rgb.convert("CMYK"), "JPEG"),
        "alpha.png": _encoded(rgb.convert("RGBA"), "PNG"),
        "16bit.png": _encoded(grey16, "PNG"),
        "bits.png": _encoded(rgb.convert("1"), "PNG"),
        "pixel.png": _encoded(Image.new("RGB", (1, 1)), "PNG"),
        "bomb.png": _png_bomb(),
        "zero.png": b"",
        "half.png": _encoded(rgb, "PNG")[:300],
        "text.jpg": b"hello",
        ".DS_Store": b"x",
    }.items():
        (odd / name).write_bytes(content)
    with open(os.fsencode(odd) + b"/caf\xe9.png", "wb") as file:
        file.write(_encoded(rgb, "PNG"))
    (odd / "dangling.png").symlink_to("nowhere")
    os.mkfifo(odd / "pipe.png")


def _add_wrong_files(folder):
    keras_file, tflite_file = ((folder / n).read_bytes() for n in ("m.keras", "f.tflite"))
    for name, content in {
        "empty.keras": b"",
        "half.keras": keras_file[: len(keras_file) // 2],
        "wrong.keras": tflite_file,
        "text.h5": b"hello",
        "half.tflite": tflite_file[: len(tflite_file) // 2],
        "wrong.tflite": keras_file,
        "empty.txt": b"",
        "three.csv": b"label\na\nb\n",
        "latin1.txt": b"K\xe4fer\nb\n",
        "mine.json": b'{"my": "settings"}',
        "t.npz": b"PK\3\4",
    }.items():
        (folder / name).write_bytes(content)
    _edited(folder / "m.keras", folder / "bomb.keras", "config.json", b" " * (80 << 20))
    _edited(folder / "m.keras", folder / "list.keras", "config.json", b"[]")
    np.savez(folder / "pickled.npz", images=np.array([{}], object))
    for name in ("link.tflite", "loop", "dangling.tflite"):
        target = {"link.tflite": "f.tflite", "loop": "loop"}.get(name, "nowhere")
        (folder / name).symlink_to(target)
    os.link(folder / "f.tflite", folder / "hard.tflite")
    os.mkfifo(folder / "pipe")
    for name in ("folder.tflite", "folder.keras", "nothing"):
        (folder / name).mkdir()


def _files(folder):
    """{path: content, or kind} of everything in a folder."""
    found = {}
    for root, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(root, name)
            regular = os.path.isfile(path) and not os.path.islink(path)
            found[path] = pathlib.Path(os.fsdecode(path)).read_bytes() if regular else "special"
    return found


def _convert(*flags, model="f.tflite", out="o/x.tflite", preset="float32"):
    return ["effnet-tflite", f"--model={model}", f"--out={out}", f"--preset={preset}", *flags]


def _train(*flags, data="classes", workdir="o/run"):
    return ["effnet-train", "--recipe=photos", f"--data={data}", f"--workdir={workdir}", *flags]


def _predict(image="flat/0.png", *flags, model="m.keras"):
    return ["effnet", "predict", image, f"--model={model}", *flags]


_PREPARE = ("effnet-train", "prepare", "--data=classes")
_EXPLAIN = ("effnet", "explain", "flat/0.png", "--model=m.keras")
_PREVIEW = ("effnet-train", "preview", "--recipe=photos", "--data=classes")
_LONG = "o/" + "x" * 245 + ".tflite"

# fmt: off
_USES = [  # what is run, exit status, what the only line of errors has (or the output, status 0)
    # The output is an input, or a file of others
    (_convert(out="f.tflite"), 2, "is the file of --model, which would be overwritten"),
    (_convert(out="link.tflite"), 2, "is the file of --model"),
    (_convert(out="hard.tflite"), 2, "is the file of --model"),
    (_convert("--labels=labels.txt", out="labels.txt"), 2, "is the file of --labels"),
    (_convert(out="m.keras"), 2, "exists and is not a .tflite file: it is not overwritten"),
    (_convert(out="o/new.keras"), 2, "--out 'o/new.keras' must end in .tflite"),
    ([*_EXPLAIN, "--out=flat/0.png"], 2, "is the file of IMAGE, which would be overwritten"),
    ([*_EXPLAIN, "--out=flat/1.png"], 2, "is not a picture of effnet explain"),
    (["effnet", "labels", "--out=m.keras"], 2, "is not a label file of effnet labels"),
    (["effnet", "labels", "--out=labels.txt"], 2, "it is not overwritten"),
    ([*_PREVIEW, "--out=flat/1.png"], 2, "is not a picture of effnet-train preview"),
    (_train(workdir="classes/run"), 2, "is inside --data 'classes'"),
    (_train(workdir="classes"), 2, "is inside --data 'classes'"),
    ([*_PREPARE, "--out=classes/shards"], 2, "is inside --data 'classes'"),
    # Outputs that are no files
    (_convert(out="dangling.tflite"), 2, "exists and is not a .tflite file"),
    (_convert(out="loop"), 2, "Too many levels of symbolic links|exists and is not a .tflite"),
    (_convert(out="pipe"), 2, "exists and is not a .tflite file"),
    (_convert(out="/dev/null"), 2, "exists and is not a .tflite file"),
    (_convert(out="/dev/full"), 2, "exists and is not a .tflite file"),
    (_convert(out="folder.tflite"), 2, "is a folder; give the path of a file in it"),
    (_convert(out="m.keras/x.tflite"), 2, "m.keras' is not a folder"),
    (_convert(out="/proc/x.tflite"), 2, "is not writable"),
    (_convert("--labels=labels.txt", out=_LONG), 2, "File name too long"),
    (["effnet", "labels", "--out=pipe"], 2, "it is not overwritten"),
    (["effnet", "labels", "--out=/proc/x"], 2, "is not writable"),
    ([*_PREPARE, "--out=m.keras"], 2, "is not a folder"),
    ([*_PREPARE, "--out=loop"], 2, "is not a folder"),
    ([*_PREPARE, "--out=/proc/x"], 2, "is not writable"),
    (_train(workdir="m.keras"), 2, "m.keras is a file"),
    (_train(workdir="pipe"), 2, "pipe is a file"),
    # Models
    (_convert(model="empty.keras"), 2, "0 bytes: empty, truncated, or of another format"),
    (_convert(model="half.keras"), 2, "empty, truncated, or of another format"),
    (_convert(model="wrong.keras"), 2, "empty, truncated, or of another format"),
    (_convert(model="text.h5"), 2, "empty, truncated, or of another format"),
    (_convert(model="bomb.keras"), 2, "unpacks to .* bytes, far more than a network of its size"),
    (_convert(model="list.keras"), 2, "Keras cannot load 'list.keras'"),
    (_convert(model="half.tflite"), 2, "is truncated or damaged"),
    (_convert(model="wrong.tflite"), 2, "is not a .tflite file"),
    (_convert(model="folder.keras"), 2, "not a file but a folder without a saved_model"),
    (_convert(model="pipe"), 2, "is not a file"),
    (_convert(model="flat/0.png"), 2, "is not a .keras, .h5 or .tflite file by its name"),
    (_predict(model="empty.keras"), 2, "cannot be read as a .keras file"),
    (_predict(model="f.tflite"), 2, "is a .tflite file, and this command takes .keras files"),
    # Labels
    (_convert("--labels=pipe"), 2, "label file 'pipe' is not a file"),
    (_convert("--labels=/dev/zero"), 2, "label file '/dev/zero' is not a file"),
    (_convert("--labels=flat"), 2, "label file 'flat' is not a file"),
    (_convert("--labels=empty.txt"), 2, "line 1 is empty"),
    (_convert("--labels=three.csv"), 2, "3 class names for a model with 2 outputs"),
    (_predict("flat/0.png", "--labels=latin1.txt"), 2, "is not UTF-8 text"),
    # Images
    (_convert("--calibration=odd", preset="float16"), 0, r"(?s)bomb\.png.*1 empty"),
    (_convert("--calibration=nothing", preset="float16"), 2, "nothing has no images"),
    (_convert("--calibration=flat/0.png", preset="float16"), 2, "has an unknown type: give a"),
    (_convert("--calibration=pipe", preset="float16"), 2, "neither a folder nor a file"),
    (_convert("--calibration=t.npz", preset="float16"), 2, "is not an .npz file"),
    (_convert("--calibration=pickled.npz", preset="float16"), 2, "Object arrays cannot be loaded"),
    (_convert("--calibration=loop", preset="float16"), 2, "'loop' does not exist"),
    (_convert("--recipe=labels.txt"), 2, "is not JSON"),
    (_convert("--recipe=mine.json"), 2, "has 'my'; a plan is"),
    (_predict("odd/zero.png"), 2, "is not an image that can be read"),
    (_predict("odd/pipe.png"), 2, "does not exist"),
    (_predict("nothing"), 2, "contains no images"),
    (_train(data="nothing"), 2, "has no images"),
    (_train(data="m.keras"), 2, "has an unknown type"),
    # Numbers and names
    (["effnet", "scale", "efficientnet-b0", "1e9"], 2, "phi 1e\\+09 is too large"),
    (_convert(out="o/two\nlines.tflite"), 0, "Wrote .*two"),
    (_convert(out="o/-x y.tflite"), 0, "Wrote .*-x y"),
]
# fmt: on


@pytest.fixture
def inside(folder, monkeypatch):
    """The folder as working directory; afterwards it is as before."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KERAS_HOME", str(folder / "no" / "home"))
    before = _files(folder)
    yield folder
    after = _files(folder)
    created = {os.fsdecode(path) for path in after.keys() - before.keys()}
    assert {path for path in created if "/o/" not in path} == set()
    for path in created:
        assert not os.path.basename(path).startswith(".partial")
        os.unlink(path)
    assert {path: after.get(path) for path in before} == before


def _status(arguments):
    try:
        return _MAIN[arguments[0]](arguments[1:])
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("arguments", "status", "message"), _USES, ids=[" ".join(use[0])[:60] for use in _USES]
)
def test_a_hostile_use_is_one_line_and_loses_nothing(inside, capsys, arguments, status, message):
    assert _status(arguments) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    if status == 0:
        assert err == ""
        assert re.search(message, out)
        return
    assert err.count("\n") == 1
    assert err.startswith(arguments[0])
    assert re.search(message, err)
    assert os.listdir("o") == []


@pytest.mark.parametrize("text", ["{garbage", "[]", '{"cluster": 3}', '{"task": "worker"}'])
def test_a_cluster_that_is_garbage_is_one_line(inside, capsys, monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert _status(_train()) == 2
    assert re.fullmatch(r"effnet-train: TF_CONFIG .*: give .*\n", capsys.readouterr().err)


def test_a_full_disk_leaves_no_file(inside, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert _status(_convert()) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search(r"File too large: .*x\.tflite", capsys.readouterr().err)
    assert os.listdir("o") == []


def test_a_clock_in_1970_does_not_matter(inside, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert _status(_convert()) == 0


_WRITER = """
import os, sys
from keras_effnet import atomic_write
from keras_effnet.interruption import run_command
replace, path = os.replace, sys.argv[1]
def slow(*paths):
    print("replacing", flush=True)
    sys.stdin.read()
    replace(*paths)
os.replace = slow
def command():
    with atomic_write.replacing(path) as temporary:
        with open(temporary, "w") as file:
            file.write("new" * 1000)
    return 0
sys.exit(run_command("x", command))
"""


@pytest.mark.parametrize(
    ("number", "status", "left"), [(signal.SIGTERM, 143, 1), (signal.SIGKILL, -9, 2)]
)
def test_a_kill_during_writing_leaves_the_old_file(tmp_path, number, status, left):
    path = tmp_path / "a.json"
    path.write_text("old")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", _WRITER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "replacing\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == left  # SIGKILL: and a hidden temporary file
    if number == signal.SIGTERM:
        assert err == "x: terminated; files are complete or not written\n"


def test_two_writers_of_the_same_files_leave_one_complete_set(tmp_path):
    code = (
        "import sys; from keras_effnet.atomic_write import write_files\n"
        "for i in range(100): write_files({f'{sys.argv[1]}/{n}': sys.argv[2].encode() * 50000"
        " for n in 'ab'})"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), letter], cwd=ROOT)
        for letter in "xy"
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    for name in "ab":
        assert (tmp_path / name).read_bytes() in (b"x" * 50000, b"y" * 50000)


@pytest.mark.parametrize(
    ("shell", "environment", "status"),
    [
        ("{} models | head -1", {}, 0),
        ("{} models >/dev/full", {}, 2),
        ("{} models >&-", {}, 0),
        ("{} models <&- 2>&-", {}, 0),
        ("{} models", {"HOME": None, "TMPDIR": "/nowhere"}, 0),
        ("{} plan efficientnet-b0", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, 0),
    ],
    ids=["reader gone", "full", "no stdout", "no stdin or stderr", "no home", "ascii"],
)
def test_a_hostile_shell_is_no_traceback(shell, environment, status):
    variables = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    command = shell.format(f"{sys.executable} -c '{_PYTHON.format('keras_effnet')}'")
    result = subprocess.run(
        ["bash", "-c", command],
        env={k: v for k, v in variables.items() if v is not None},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr
    assert result.stderr.count("\n") <= 1


def test_characters_that_a_terminal_lacks_are_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with contextlib.suppress(ValueError):
        assert keras_effnet.cli.run_command("x", lambda: print("K\u00e4fer") or 0) == 0
    assert stream.buffer.getvalue() == b"K\\xe4fer\n"
