"""Names, lengths and syntax of the sources. A failure names file and line."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("keras_effnet", "tpu_train", "tflite")
SOURCES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))


def _place(path):
    return path.relative_to(ROOT).as_posix()


def _in(package):
    return [p for p in SOURCES if p.relative_to(ROOT).parts[0] == package]


def _assert_none(violations):
    assert not violations, "\n" + "\n".join(violations)


def test_every_module_is_named_after_its_subject():
    vague = {"utils.py", "util.py", "common.py", "helpers.py", "base.py", "misc.py"}
    _assert_none([f"{_place(p)}: a vague name" for p in SOURCES if p.name in vague])


def test_no_public_function_has_the_name_of_its_module():
    _assert_none(
        [
            f"{_place(p)}:{node.lineno}: {node.name}"
            for p in SOURCES
            for node in ast.parse(p.read_text(encoding="utf-8")).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == p.stem
        ]
    )


def test_no_file_is_longer_than_400_lines():
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    lines = {p.relative_to(ROOT): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    _assert_none([f"{place}: {n} lines" for place, n in lines.items() if n > 400])


@pytest.mark.parametrize("package", ["keras_effnet", "tpu_train"])
def test_packages_have_the_syntax_of_python_3_9(package):
    """TensorFlow 2.15 runs on Python 3.9 to 3.11; the tests run on one of them."""
    for path in _in(package):
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))


@pytest.mark.parametrize("package", ["tflite", "tpu_train"])
def test_few_files_lie_directly_in_a_package(package):
    names = {p.name for p in (ROOT / package).glob("*.py")}
    files = sorted(names - {"__init__.py", "public_names.py"})
    assert len(files) <= 6, files


def test_the_documentation_has_a_line_for_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\n(\w+)/\n(.*?)```", text, re.DOTALL)
    listed = set()
    for package, tree in trees:
        folder = package
        for indent, name in re.findall(r"^( +)([\w/.]+)", tree, re.MULTILINE):
            if len(indent) == 2:
                folder = f"{package}/{name.rstrip('/')}" if name.endswith("/") else package
            if name.endswith(".py"):
                listed.add(f"{package if len(indent) == 2 else folder}/{name}")
    modules = {_place(p) for p in SOURCES if p.name != "__init__.py"}
    assert listed == modules, sorted(listed ^ modules)


def test_tests_mirror_the_folders():
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.relative_to(ROOT / "tests").parent
        if folder.parts and folder.parts[0] in PACKAGES:
            assert (ROOT / folder).is_dir(), f"{_place(path)}: there is no folder {folder}"


def test_test_names_have_at_most_70_characters():
    _assert_none(
        [
            f"{_place(p)}:{node.lineno}: {len(node.name)} characters"
            for p in (ROOT / "tests").rglob("test_*.py")
            for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
            and node.name.startswith("test_")
            and len(node.name) > 70
        ]
    )


def test_no_except_clause_catches_everything():
    _assert_none(
        [
            f"{_place(p)}:{node.lineno}: bare except"
            for p in SOURCES
            for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
            if isinstance(node, ast.ExceptHandler) and node.type is None
        ]
    )
