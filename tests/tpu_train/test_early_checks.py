"""Bad input is found before TensorFlow is imported, which takes seconds."""

import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).parents[2]

_WITHOUT_TENSORFLOW = """
import sys

class Forbidden:
    def find_spec(self, name, *_):
        assert name != "tensorflow"

sys.meta_path.insert(0, Forbidden())
from tpu_train.cli import main
for line in sys.argv[1].splitlines():
    assert main(line.split()) == 2, line
    assert "tensorflow" not in sys.modules, line
"""
_BAD_LINES = """--data=/nonexistent --workdir=w
--data=setup.py --workdir=w
--data=. --workdir=setup.py/w
--data=. --workdir=w --holdout=2
--data=. --workdir=w --on_nan=ignore
--data=. --workdir=w --device=cp
--data=. --workdir=w --stop_after=soon
--data=. --workdir=w --eval_epochs=-1
--data=. --workdir=w --max_corrupt=-1
--data=. --workdir=w --recipe=photoss
--data=. --workdir=w --model=efficientnet-b99
--data=. --workdir=w --model=nowhere:net
--data=. --workdir=w --model=nothing.keras
--data=. --workdir=w --model=setup.py:x:y
--data=. --workdir=w --weights=nothing.h5
--data=. --workdir=w --model=keras.applications:VGG16 --width=2 --weights=
--data=. --workdir=w --model=keras.applications:VGG16 --weights=nothing.h5
--data=. --workdir=w --epochs=inf
--data=. --workdir=w --learning_rate=nan
--data=. --workdir=w --seed=-1
--data=. --workdir=w --save_minutes=nan
--data=. --workdir=w --profile=9:3
--data=. --workdir=w --callback=wand
--data=. --workdir=w --callback=nowhere:f
--data=. --workdir=w --wait_for_workers=soon
--data=. --workdir=w --device=cpu:0
--data=. --workdir=w --device=gpu:x
--data=. --workdir=w --device=multi-worker
--data=. --workdir=w --export
--data=. --workdir=w --early_stopping_patience=3
--data=. --workdir=w --learning_rate_schedule=plateau
--data=. --workdir=https://x.org/run
--data=https://x.org/photos.zip --workdir=w
--data=. --workdir={folder}/caf\udce9
--data=tfds: --workdir=w
--data=tfds:no_such_data_set --workdir=w
--data={folder}/empty --workdir=w
--data={folder}/no_rows.csv --workdir=w
--data={folder}/half.json --workdir=w
--data=. --workdir=w --weights={folder}/half.h5
--data=. --workdir=w --weights={folder}/half.weights.h5
--data=. --workdir=w --weights={folder}/other.keras
--data=. --workdir=w --model={folder}/other.keras
--data=. --workdir=w --model={folder}/half.keras
--data=. --workdir=w --model={folder}/changed.keras
--data=. --workdir=w --model=keras.applications:VGG16 --weights={folder}/half.h5
--data=. --workdir=w --class_weights=balance
--data=. --workdir=w --class_weights=cat:-2
--data=. --workdir=w --unlabeled={folder}/nothing --unlabeled_ratio=1
prepare --data={folder}/no_rows.csv --out=w
prepare --data=. --out=w --workers=0
prepare --data=. --out=w --minival=-1
prepare --data=. --out=w --shards=-1
prepare --data=. --out=w --workers=2 --runner=DirectRunner
plan --topology=v9
plan --topology=v5e
pseudo-label --model={folder}/other.keras --data=. --out=w
pseudo-label --model={folder}/other.keras --data=. --out=w --device=cpu:0
noisy-student --teacher={folder}/half.keras --data=. --unlabeled=. --workdir=w
noisy-student --teacher={folder}/half.keras --data=. --unlabeled=. --workdir=w --device=x
search --data={folder}/half.json --workdir=w
search --data=. --workdir=w --device=multi-worker
prepare --data=/nonexistent --out=w
prepare --data=. --out=w --holdout=1
prepare --data=. --out=w --minival=nan
plan --classes=-1
preview --data=/nonexistent
preview --data=. --images=3
preview --data=. --out=w.txt"""


def test_bad_flags_and_paths_are_found_before_tensorflow_is_imported(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_rows.csv").write_text("image,label\n")
    for name in ("half.json", "half.h5", "half.weights.h5", "half.keras"):
        (tmp_path / name).write_text("{")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("document.xml", "")
    with zipfile.ZipFile(tmp_path / "changed.keras", "w") as archive:
        archive.writestr("config.json", "aaaa")
    content = (tmp_path / "changed.keras").read_bytes()
    (tmp_path / "changed.keras").write_bytes(content.replace(b"aaaa", b"aaab"))
    lines = _BAD_LINES.replace("{folder}", str(tmp_path))
    process = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TENSORFLOW, lines],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("\n") == len(_BAD_LINES.splitlines()), process.stderr
