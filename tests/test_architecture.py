"""The rules of docs/architecture.md, read from the sources. A failure names file and line."""

import ast
import functools
import pathlib
import re

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


def _place(path):
    return path.relative_to(ROOT).as_posix()


def _violations(path, forbidden, why):
    return [
        f"{_place(path)}:{line}: imports {name}: {why}"
        for line, name in _imports(path)
        if any(_within(name, module) for module in forbidden)
    ]


def _in(package):
    return [p for p in SOURCES if p.relative_to(ROOT).parts[0] == package]


def _assert_none(violations):
    assert not violations, "\n" + "\n".join(violations)


# The entries of a package from top to bottom: a folder or module imports only from its own line
# and from the lines below it.
LAYERS = {
    "keras_effnet": (
        ("cli", "public_names"),
        ("porting",),
        ("demo",),
        ("diagnostics", "saliency"),
        ("batch_checks", "output_checks"),
        ("image_size", "finetuning", "feature_pyramid"),
        ("image_classifier",),
        ("model_card",),
        ("evaluation",),
        ("constructors",),
        ("pretrained",),
        ("model_structure", "gradients", "model", "pixel_flow"),
        ("onnx_export",),
        ("float32_copy",),
        ("weight_transfer",),
        ("model_input",),
        ("image_preprocessing", "labels"),
        ("datasets",),
        ("image_decoding",),
        ("space_lookup",),
        ("compound_space",),
        ("scaling",),
        ("model_cost",),
        ("search_space",),
        ("network_plan",),
        ("variant_lookup",),
        ("variant_file",),
        ("block_strings", "search_reward"),
        ("variants",),
        ("completion",),
        ("arguments", "keras_file", "label_file", "native_logs"),
        ("litert", "html_elements", "provenance"),
        ("model_graph",),
        ("suggestions", "atomic_write", "finding", "compiled_loss"),
        ("interruption",),
        ("command_output", "package_conflicts"),
    ),
    "tpu_train": (
        ("cli",),
        ("search", "noisy_student"),
        ("tpu_compile", "diagnostics"),
        ("training",),
        ("callbacks",),
        ("checkpointing", "input_pipeline"),
        ("recipes",),
        ("device_names", "folder_lock", "remote_files", "imported_function", "tf_config"),
        ("recorded_settings",),
    ),
    "tflite": (
        ("cli", "public_names"),
        ("converter",),
        ("request", "result"),
        ("report",),
        ("quantization",),
        ("evaluation",),
        ("export", "images"),
        ("flatbuffer",),
        ("ai_edge_quantizer", "keras_models", "presets"),
    ),
}


def _entry(package, name):
    """The folder or module directly in `package` that a dotted name lies in; "" for the package."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == package else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_inside_a_package_point_downwards(package):
    level = {name: i for i, line in enumerate(LAYERS[package]) for name in line}
    violations = []
    for path in _in(package):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if len(parts) == 2 and parts[1] == "__init__":
            continue  # the public names
        here = parts[1]
        assert here in level, f"{_place(path)}: put {here} into LAYERS"
        for line, name in _imports(path):
            there = _entry(package, name)
            if there in level and there != here and level[there] <= level[here]:
                violations.append(f"{_place(path)}:{line}: imports {name}, which is not below it")
    _assert_none(violations)


def test_quantization_reads_no_clock():
    why = "budgets count evaluations, so that the same inputs give the same file"
    pattern = r"^(?:import|from) (?:time|datetime|timeit|signal)\b|\b(?:monotonic|latencies_ms)\b"
    for path in (ROOT / "tflite" / "quantization").rglob("*.py"):
        found = re.findall(pattern, path.read_text(encoding="utf-8"), re.M)
        assert not found, f"{_place(path)}: {found}: {why}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package):
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts): p
        for p in _in(package)
        if p.name != "__init__.py"
    }
    uses = {}
    for module, path in modules.items():
        names = {name for _, name in _imports(path)} | {
            name.rpartition(".")[0] for _, name in _imports(path)
        }
        uses[module] = sorted(names & set(modules) - {module})
    done, active = set(), []

    def visit(module):
        if module in active:
            circle = [*active[active.index(module) :], module]
            raise AssertionError(" -> ".join(circle))
        if module not in done:
            active.append(module)
            for used in uses[module]:
                visit(used)
            done.add(active.pop())

    for module in modules:
        visit(module)


def test_a_circle_is_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    folder = tmp_path / "tflite"
    folder.mkdir()
    for here, there in (("a", "b"), ("b", "c"), ("c", "a")):
        (folder / f"{here}.py").write_text(f"from tflite.{there} import x\n")
    monkeypatch.setitem(globals(), "SOURCES", sorted(folder.glob("*.py")))
    with pytest.raises(AssertionError, match=r"tflite.a -> tflite.b -> tflite.c -> tflite.a"):
        test_no_modules_import_each_other_in_a_circle("tflite")


def test_keras_effnet_imports_no_other_package_and_no_framework():
    why = "keras_effnet runs on every Keras backend, and the other packages import it"
    forbidden = ("tpu_train", "tflite", "tensorflow", "tensorflow_addons", "keras_cv", "jax")
    exempt = {
        # TensorFlow checkpoints are read by TensorFlow, on whatever backend Keras runs
        ("keras_effnet/pretrained/tf_checkpoint.py", "tensorflow"),
        # Keras has no gradients: they come from the backend, which Keras has imported by then
        ("keras_effnet/gradients.py", "tensorflow"),
        ("keras_effnet/gradients.py", "jax"),
    }
    _assert_none(
        [
            violation
            for p in _in("keras_effnet")
            for name in forbidden
            if (_place(p), name) not in exempt
            for violation in _violations(p, (name,), why)
        ]
    )


def test_tensorflow_is_imported_only_when_a_checkpoint_is_read():
    path = ROOT / "keras_effnet" / "pretrained" / "tf_checkpoint.py"
    top = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(n, "names")]
    assert not [a.name for n in top for a in n.names if _within(a.name, "tensorflow")]


def test_tpu_train_and_tflite_do_not_import_each_other():
    why = "code that both need belongs to keras_effnet"
    _assert_none(
        [v for p in _in("tpu_train") for v in _violations(p, ("tflite",), why)]
        + [v for p in _in("tflite") for v in _violations(p, ("tpu_train",), why)]
    )


_PURE = (
    *("variants", "block_strings", "variant_file", "variant_lookup", "network_plan"),
    *("model_cost", "scaling", "search_space", "search_reward"),
    *("compound_space", "space_lookup"),
)


@pytest.mark.parametrize(
    "pure",
    [
        *(f"keras_effnet/{n}.py" for n in _PURE),
        *sorted(_place(p) for p in (ROOT / "tpu_train" / "recipes").glob("*.py")),
        "tflite/presets.py",
    ],
)
def test_tables_and_plans_import_no_framework(pure):
    why = "tables and plans are read in milliseconds"
    forbidden = ("keras", "tensorflow", "jax", "numpy", "h5py", "keras_effnet.model")
    _assert_none(_violations(ROOT / pure, forbidden, why))


@pytest.mark.parametrize(
    ("module", "importers"),
    [
        ("tensorflow_addons", {"tpu_train/training/optimizers.py"}),
        ("keras_cv", {"tpu_train/input_pipeline/keras_cv_layers.py"}),
        ("tensorflow_datasets", {"keras_effnet/datasets/tfds.py"}),
        ("wandb", {"tpu_train/callbacks/wandb_run.py"}),
        ("mlflow", {"tpu_train/callbacks/mlflow_run.py"}),
        ("optuna", {"tpu_train/search/optuna_study.py"}),
        ("sqlalchemy", {"tpu_train/search/optuna_study.py"}),
        ("apache_beam", {"tpu_train/input_pipeline/prepare_beam.py"}),
        ("jax", {"keras_effnet/gradients.py", "tpu_train/tpu_compile/compiler.py"}),
        ("torch", {"keras_effnet/porting/reference_models.py"}),
        ("timm", {"keras_effnet/porting/reference_models.py"}),
        ("torchvision", {"keras_effnet/porting/reference_models.py"}),
        ("gradio", {"keras_effnet/demo/page.py"}),
        ("huggingface_hub", {"keras_effnet/pretrained/hub.py"}),
        ("ai_edge_litert", {"keras_effnet/litert/runtime.py"}),
        ("ai_edge_quantizer", {"tflite/ai_edge_quantizer.py"}),
    ],
)
def test_a_package_that_may_disappear_has_few_importers(module, importers):
    why = f"only {' and '.join(sorted(importers))} may"
    _assert_none(
        [
            violation
            for p in SOURCES
            if not _place(p).startswith(tuple(importers))
            for violation in _violations(p, (module,), why)
        ]
    )


def test_tflite_imports_tensorflow_only_to_load_export_and_finetune():
    importers = {"tflite/keras_models/files.py", "tflite/export.py"}
    importers |= {f"tflite/quantization/{name}.py" for name in ("finetuning", "tf_interpreter")}
    why = f"only {' and '.join(sorted(importers))} may"
    _assert_none(
        [
            violation
            for p in _in("tflite")
            if _place(p) not in importers
            for violation in _violations(p, ("tensorflow",), why)
        ]
    )


def test_only_command_lines_read_flags():
    _assert_none(
        [
            violation
            for p in SOURCES
            if "cli" not in p.relative_to(ROOT).parts
            for violation in _violations(p, ("absl.flags", "absl.app"), "only cli/ reads flags")
        ]
    )


def test_every_kind_of_import_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    source = tmp_path / "tpu_train" / "cli" / "x.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import tflite.converter as c\n"
        "from tflite import report\n"
        "from ..augmentation import a\n"
        "from .. import ema\n"
        "def f():\n    from absl import app, flags\n"
        "import tflite_support\n"
    )
    assert list(_read_imports(source)) == [
        (1, "tflite.converter"),
        (2, "tflite.report"),
        (3, "tpu_train.augmentation.a"),
        (4, "tpu_train.ema"),
        (7, "tflite_support"),
        (6, "absl.app"),
        (6, "absl.flags"),
    ]
    assert _violations(source, ("tflite",), "no") == [
        "tpu_train/cli/x.py:1: imports tflite.converter: no",
        "tpu_train/cli/x.py:2: imports tflite.report: no",
    ]
