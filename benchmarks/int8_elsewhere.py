"""int8 of networks that the pipeline was not tuned on, by default settings with 256 images.

    python tools/train_elsewhere.py --data=cifar10/ --base=v2b0.keras --out=nets/
    python benchmarks/int8_elsewhere.py --data=cifar10/ --nets=nets/ \
        --doc=docs/results/int8-elsewhere.md

Each network of tools/train_elsewhere.py is converted with the first 256 training images of its
task, by this project and by ai-edge-quantizer with default settings, and evaluated on the test
images of its task. float16 shows how much rounding that is far finer already changes. Results are
kept in a JSON file, so that a second call resumes; `--doc` writes the table between the markers of
a Markdown file, worst agreement first.
"""

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from int8 import Truth, baseline_aeq, cifar, save, where

import tflite
from keras_effnet.atomic_write import write_files
from keras_effnet.image_preprocessing import resize

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
CALIBRATION = 256
NARROW = 0.1  # probability: the two best classes of an image are nearly equal


def small_margins(truth):
    """The share of images whose two best classes are nearly equal for the float network."""
    ordered = np.sort(np.exp(truth.log), -1)
    return float((ordered[:, -1] - ordered[:, -2] < NARROW).mean())


def measured(network, path, data, count):
    """Everything of one row."""
    import keras
    from train_elsewhere import classes_of

    split = {}
    for name, pattern in (("calibration", "train-*"), ("test", "validation-*")):
        images, labels = data[pattern]
        keep, labels = classes_of(labels, network.classes)
        keep, labels = (keep[:CALIBRATION], labels) if name == "calibration" else (keep, labels)
        keep, labels = keep[:count], labels[:count]
        pixels = np.stack([resize(images[i], network.size, network.size) for i in keep])
        split[name] = pixels, labels
    calibration, (images, labels) = split["calibration"][0], split["test"]
    model = keras.models.load_model(path, compile=False)
    content = tflite.export_float32(model)
    truth = Truth(content, images, labels)
    start = time.process_time()
    conversion = tflite.convert(
        content,
        calibration=calibration,
        evaluation=images[:16],
        log=lambda line: print(line, flush=True),
    )
    seconds = time.process_time() - start
    steps = conversion.as_dict()["quantization_steps"]
    return {
        "images": len(images),
        "small_margins": small_margins(truth),
        "int8": truth.measured(conversion.tflite_model),
        "baseline aeq": truth.measured(baseline_aeq(model, content, calibration)),
        "float16": truth.measured(tflite.convert(content, preset="float16").tflite_model),
        "cpu_seconds": seconds,
        "quantization_steps": steps,
    } | where()


def table(results, names):
    """The Markdown table, worst agreement first."""
    lines = [
        "| network | px | classes | top-1 float | aeq: top-1 | agreement | ours: top-1 "
        "| drop, points (95 %) | agreement | float16 | small margins |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {name: row for name, row in results.items() if name in names}
    for name, row in sorted(rows.items(), key=lambda item: item[1]["int8"]["agreement"]):
        ours, base = row["int8"], row["baseline aeq"]
        low, high = ours["drop_low"], ours["drop_high"]
        lines.append(
            f"| {name} | {names[name].size} | {names[name].classes} | {ours['float_top1']:.2%} "
            f"| {base['top1']:.2%} | {base['agreement']:.2%} | {ours['top1']:.2%} "
            f"| {ours['drop']:+.2f} ({low:+.2f} to {high:+.2f}) | {ours['agreement']:.2%} "
            f"| {row['float16']['agreement']:.2%} | {row['small_margins']:.1%} |"
        )
    return "\n".join(lines)


def main():
    """Measures what is not there yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks; default: all that exist")
    parser.add_argument("--data")
    parser.add_argument("--nets")
    parser.add_argument("--images", type=int, default=10_000, help="test images, at most")
    parser.add_argument("--results", default=str(ROOT / "docs/results/int8-elsewhere.json"))
    parser.add_argument("--doc", help="Markdown file with the markers elsewhere: begin, end")
    options = parser.parse_args()
    from train_elsewhere import NETWORKS

    path = pathlib.Path(options.results)
    results = json.loads(path.read_text()) if path.exists() else {}
    if options.nets:
        data = {pattern: cifar(options.data, pattern, count, 32) for pattern, count in
                (("train-*", 2000), ("validation-*", -1))}  # fmt: skip
        for network in NETWORKS:
            file = pathlib.Path(options.nets) / f"{network.name}.keras"
            wanted = not options.names or network.name in options.names
            if network.name in results or not wanted or not file.exists():
                continue
            results[network.name] = measured(network, file, data, options.images)
            save(options, results)
            row = results[network.name]
            print(f"{network.name}: {row['int8']}, {row['cpu_seconds']:.0f} s", flush=True)
    if options.doc:
        doc = pathlib.Path(options.doc)
        before, _, rest = doc.read_text().partition("<!-- elsewhere: begin -->\n")
        _, _, after = rest.partition("<!-- elsewhere: end -->")
        names = {network.name: network for network in NETWORKS}
        text = (
            f"{before}<!-- elsewhere: begin -->\n{table(results, names)}\n<!-- elsewhere: end -->"
        )
        write_files({str(doc): (text + after).encode()})


if __name__ == "__main__":
    main()
