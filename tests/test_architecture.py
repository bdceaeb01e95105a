"""Who may import whom (docs/architecture.md), read from the sources; fails with file and line."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("keras_effnet", "tpu_train", "tflite")
SOURCES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))


@functools.cache
def _imports(path):
    """((line, dotted name), ...) of all imports in a file; relative ones are resolved."""
    return tuple(_read_imports(path))


def _read_imports(path):
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def _within(name, module):
    return name == module or name.startswith(module + ".")


def _offences(path, forbidden, why):
    place = path.relative_to(ROOT)
    return [
        f"{place}:{line}: imports {name}: {why}"
        for line, name in _imports(path)
        if any(_within(name, module) for module in forbidden)
    ]


def _in(package):
    return [p for p in SOURCES if p.relative_to(ROOT).parts[0] == package]


def _is_command_line(path):
    parts = path.relative_to(ROOT).parts
    return path.name == "cli.py" or "cli" in parts or path.name.startswith("cli_")


def _assert_none(offences):
    assert not offences, "\n" + "\n".join(offences)


def test_there_is_something_to_read():
    assert len(_in("keras_effnet")) >= 8


def test_the_networks_know_neither_the_training_nor_the_phone_nor_tensorflow():
    why = "keras_effnet runs on every Keras backend, and is imported by the others"
    forbidden = ("tpu_train", "tflite", "tensorflow", "tensorflow_addons", "keras_cv", "jax")
    exempt = {
        # TensorFlow's own checkpoints are read by TensorFlow, on whatever backend Keras runs
        ("keras_effnet/pretrained/tf_checkpoint.py", "tensorflow"),
        # Keras has no gradients: they are the backend's, which Keras has imported by then
        ("keras_effnet/gradients.py", "tensorflow"),
        ("keras_effnet/gradients.py", "jax"),
    }
    _assert_none(
        [
            offence
            for p in _in("keras_effnet")
            for name in forbidden
            if (p.relative_to(ROOT).as_posix(), name) not in exempt
            for offence in _offences(p, (name,), why)
        ]
    )


def test_tensorflow_is_imported_only_when_a_checkpoint_is_read():
    path = ROOT / "keras_effnet" / "pretrained" / "tf_checkpoint.py"
    top = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(n, "names")]
    assert not [a.name for n in top for a in n.names if _within(a.name, "tensorflow")]


def test_the_training_and_the_phone_never_see_each_other():
    why = "what both need belongs to keras_effnet"
    _assert_none(
        [o for p in _in("tpu_train") for o in _offences(p, ("tflite",), why)]
        + [o for p in _in("tflite") for o in _offences(p, ("tpu_train",), why)]
    )


@pytest.mark.parametrize(
    "pure",
    [
        *(f"keras_effnet/{n}.py" for n in ("variants", "network_plan", "model_cost", "scaling")),
        *(
            f"tpu_train/recipes/{n}.py"
            for n in ("schema", "published", "project", "table", "phases")
        ),
    ],
)
def test_tables_and_plans_need_no_framework(pure):
    why = "tables and plans are read in milliseconds"
    forbidden = ("keras", "tensorflow", "jax", "numpy", "h5py", "keras_effnet.model")
    _assert_none(_offences(ROOT / pure, forbidden, why))


@pytest.mark.parametrize(
    ("module", "homes"),
    [
        ("tensorflow_addons", {"tpu_train/training/optimizers.py"}),
        (
            "keras_cv",
            {"tpu_train/input_pipeline/keras_cv_layers.py"},
        ),
        ("tensorflow_datasets", {"keras_effnet/tfds.py"}),
        ("jax", {"keras_effnet/gradients.py", "tpu_train/tpu_compile/compiler.py"}),
        (
            "torch",
            {"keras_effnet/porting/reference_models.py", "keras_effnet/porting/state_dicts.py"},
        ),
        ("timm", {"keras_effnet/porting/reference_models.py"}),
        ("torchvision", {"keras_effnet/porting/reference_models.py"}),
    ],
)
def test_a_package_that_may_go_away_has_one_importer(module, homes):
    _assert_none(
        [
            offence
            for p in SOURCES
            if p.relative_to(ROOT).as_posix() not in homes
            for offence in _offences(p, (module,), f"only {' and '.join(sorted(homes))} may")
        ]
    )


@pytest.mark.parametrize(
    ("module", "homes"),
    [
        (
            "tensorflow",
            {
                "tflite/export.py",
                "tflite/quantization/finetuning.py",
                "tflite/quantization/tf_interpreter.py",
            },
        ),
        ("ai_edge_litert", {"tflite/litert.py"}),
        ("ai_edge_quantizer", {"tflite/litert.py"}),
    ],
)
def test_the_phone_has_few_importers_of_what_is_heavy(module, homes):
    _assert_none(
        [
            offence
            for p in _in("tflite")
            if p.relative_to(ROOT).as_posix() not in homes
            for offence in _offences(p, (module,), f"only {' and '.join(sorted(homes))} may")
        ]
    )


def test_flags_are_the_command_lines_business():
    _assert_none(
        [
            offence
            for p in SOURCES
            if not _is_command_line(p)
            for offence in _offences(p, ("absl.flags", "absl.app"), "only cli files read flags")
        ]
    )


def test_every_function_has_a_home_with_a_name():
    nowhere = {"utils.py", "util.py", "common.py", "helpers.py", "base.py", "misc.py"}
    _assert_none(
        [f"{p.relative_to(ROOT)}: a name for nothing" for p in SOURCES if p.name in nowhere]
    )


def test_no_except_catches_everything_unnamed():
    _assert_none(
        [
            f"{p.relative_to(ROOT)}:{node.lineno}: bare except"
            for p in SOURCES
            for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
            if isinstance(node, ast.ExceptHandler) and node.type is None
        ]
    )


def test_the_reading_sees_every_kind_of_import(tmp_path, monkeypatch):
    """Each way to write an import that a rule must not miss."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    source = tmp_path / "tpu_train" / "cli" / "x.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import tflite.convert as c\n"
        "from tflite import report\n"
        "from ..augment import a\n"
        "from .. import ema\n"
        "def f():\n    from absl import app, flags\n"
        "import tflite_support\n"
    )
    assert list(_imports(source)) == [
        (1, "tflite.convert"),
        (2, "tflite.report"),
        (3, "tpu_train.augment.a"),
        (4, "tpu_train.ema"),
        (7, "tflite_support"),
        (6, "absl.app"),
        (6, "absl.flags"),
    ]
    assert _offences(source, ("tflite",), "no") == [
        "tpu_train/cli/x.py:1: imports tflite.convert: no",
        "tpu_train/cli/x.py:2: imports tflite.report: no",
    ]
    assert _is_command_line(source)
