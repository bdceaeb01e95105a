"""docs/common-pitfalls.md: every entry names an existing test."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "common-pitfalls.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| (\d|-)", line)
]


def test_every_known_pitfall_is_listed():
    numbers = {re.match(r"\d+|-", row[0]).group() for row in ROWS}
    assert numbers == {*map(str, range(1, 24)), "-"}


def test_every_entry_names_an_existing_test():
    for number, *_, test in ROWS:
        file, name = test.strip("`").split("::")
        texts = [path.read_text(encoding="utf-8") for path in ROOT.glob(f"tests/**/{file}")]
        assert any(f"def {name}(" in text for text in texts), f"{number}: {test}"
