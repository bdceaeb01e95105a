"""The project uses the field's terms: private words of its early versions do not come back."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".md", ".ipynb", ".json", ".toml", ".js", ".html", ".kt", ".sh", ".yml", ""}
EXEMPT = {"LICENSE", "tests/test_vocabulary.py", "examples/web/package-lock.json"}

# pattern -> the term to use
REPLACED = {
    r"remed(y|ies)": "quantization step",
    r"\bislands?\b": "float32 region",
    r"\bjudge[ds]?\b|\bjudging\b": "objective, evaluate",
    r"\btorn\b": "corrupt, incomplete",
    r"\banew\b": "again, from scratch",
    r"\bno (number|share)\b": "NaN or Inf; out of range",
    r"\bgo(es|ing)? on\b": "resume, continue",
    r"\b(is|are|be) told\b|\btold\(": "reported, logged",
    r"\bin vain\b": "without effect",
    r"\bof (its|their|his) own\b": "its, separate",
    r"\bothers' making\b": "other projects'",
    r"transplant": "change_image_size",
    r"\banatom(y|ies)\b": "layer groups, ops",
    r"\bmisuses?\b": "common pitfalls",
    r"\bstressed\b": "channel-rescaled",
    r"\bna[iï]ve(ly)?\b": "baseline",
    r"\bzero_head\b|\bdecay_kind\b|\bdecay_biases\b|\bcrop_area_min\b": "zero_init_classifier, ...",
    r"\bbalance_classes\b|\bbatch_norm_images\b": "class_weights, batch_norm_group_size",
    r"(?<!randaugment_)\bmagnitude_(first|last)\b": "randaugment_magnitude_first, ..._last",
    r"(?<!gradient_)\baccumulation_(first|last)\b": "gradient_accumulation_first, ..._last",
    r"\bfrozen=\"|--frozen\b|--ramp\b|--tune\b|--verify\b": "freeze, progressive_schedule, ...",
    r"\bsnr_db\b|signal[ -]and[ -]noise": "SQNR, sqnr_db",
    r"\bfloat_tflite\b": "float32_model, export_float32",
    r"WEIGHT_SETS|\bweight[ _]sets?\b": "pretrained weights",
    r"\bcontract_of\b|\bContract\b": "input spec",
    r"\b(averaged|raw) weights\b": "EMA weights, non-EMA weights",
    r"\bgaller(y|ies)\b": "augmentation preview",
    r"\bby heart\b": "memorized",
    r"\bthe phone\b": "the device, on device",
    r"\bsay=|\bsay\(": "log",
    r"\baside\b": "temporary file",
    r"\bfind_body\b|\bzero head\b|=body\b": "backbone",
    r"(?<![.\w])walk(s|ed|ing)?\b(?! *\()": "run, train, traverse",
    r"\bhow it does\b|\bwhat it is worth\b|\bare worth\b": "accuracy, significance",
    r"\bas it comes\b": "with default settings",
    r"\blearnt?s? of\b|\bknows neither\b": "imports",
    r"\bso many\b|\bso long\b(?!\w)": "a number, a time",
}


def _files():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if name not in EXEMPT and path.suffix in SUFFIXES and path.is_file():
            yield name, path.read_text(encoding="utf-8")


def _uses(text):
    """(line number, pattern, line) of every private word in a text."""
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern in REPLACED:
            if re.search(pattern, line):
                yield number, pattern, line.strip()


def test_private_words_do_not_come_back():
    uses = [
        f"{name}:{number}: {re.search(pattern, line).group()!r}, use: {REPLACED[pattern]}"
        for name, text in _files()
        for number, pattern, line in _uses(text)
    ]
    assert not uses, "\n" + "\n".join(uses)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("each remedy is kept", True),
        ("os.walk(folder)", False),
        ("for node in ast.walk(tree):", False),
        ("the loop walks the phases", True),
        ("randaugment_magnitude_first=5", False),
        ("magnitude_first=5", True),
        ("the run goes on after step 9", True),
    ],
)
def test_words_are_recognized(line, found):
    assert bool(list(_uses(line))) == found
