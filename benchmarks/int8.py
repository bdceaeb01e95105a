"""int8 of trained networks compared with other converters: accuracy, agreement, latency, size.

Each network is converted by TensorFlow's converter and by ai-edge-quantizer with default settings
(the baselines), and by every int8 preset of this project, with the same 512 training images. All
files run on the same test images. (int8_mixed has a budget to meet: it takes 2,048 test images and
is measured on the rest.) Rescaled networks compute the same functions, but the channels of their
residual streams and of the inputs of every swish are rescaled at random (log-normal), as in
ImageNet's networks. Results are kept in a JSON file, one entry per network and contender, so that a
second call resumes; `--doc` writes the tables between the markers of a Markdown file.

    python benchmarks/int8.py --data=cifar10/ --networks efficientnet-b0=b0.keras ... --rescale=1.0
    python benchmarks/int8.py --latency --doc=docs/tflite.md

Data: a folder of TFRecord shards train-*, validation-* (ImageNet keys, labels from 1). About ten
minutes per network of 64 px on two cores. The files are kept (`--files`), so that their latency
can be measured when the machine is idle.
"""

import argparse
import datetime
import io
import json
import os
import pathlib
import platform
import subprocess
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from int8_tables import BASELINES, PRESETS, tables, write_doc

import tflite
from keras_effnet.atomic_write import write_files
from keras_effnet.evaluation.intervals import wilson
from keras_effnet.evaluation.probabilities import log_probabilities
from keras_effnet.image_preprocessing import resize
from keras_effnet.litert import classifier, ops, runner, runtime
from tflite.evaluation import paired_statistics
from tflite.flatbuffer.graph import Graph, swishes
from tflite.images.mediapipe import stretch
from tflite.quantization import equalization, weight_rounding
from tflite.quantization.normalization_folding import fold_normalization
from tflite.quantization.range_estimation import estimate_ranges

ROOT = pathlib.Path(__file__).resolve().parent.parent
CALIBRATION = 512
BUDGET = 2048
ABLATION_IMAGES = 2000
REFERENCE_IMAGES = 1000  # of the kernels' comparison


def cifar(folder, pattern, count, size, resize=resize):
    """(uint8 images (n, size, size, 3), labels) of a split of shards, the first `count`."""
    import tensorflow as tf
    from PIL import Image

    shards = sorted(str(path) for path in pathlib.Path(folder).glob(pattern))
    images, labels = [], []
    for record in tf.data.TFRecordDataset(shards).take(count):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        jpeg = features["image/encoded"].bytes_list.value[0]
        pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        images.append(resize(pixels, size, size))
        labels.append(features["image/class/label"].int64_list.value[0] - 1)
    return np.stack(images), np.array(labels)


def rescaled(content, deviation, seed=0):
    """The same function with channels rescaled at random, also through swishes."""
    network, rng = Graph(content), np.random.default_rng(seed)
    names = tuple(network.name(swish.z) for swish in swishes(network))
    for group in equalization.groups(network, through_swish=names):
        channels = network.shape(group.tensors[0])[-1]
        equalization.apply_scale(network, group, np.exp(rng.normal(0, deviation, channels)))
    return network.content()


def baseline_tf(model, content, images):
    """TensorFlow's converter with its defaults for full integers, but float scores."""
    import tensorflow as tf

    def samples():
        for image in images:
            yield [image[None].astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    with runtime.native_log_hidden():
        return converter.convert()


def baseline_aeq(model, content, images):
    """ai-edge-quantizer with its recipe and calibration (a moving average of each image's range),
    scores left in float.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    made = quantizer.Quantizer(content, recipe.static_wi8_ai8())
    made.update_quantization_recipe(
        ".*",
        qtyping.TFLOperationName.OUTPUT,
        algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
    )
    name = runtime.interpreter(content).get_signature_list()["serving_default"]["inputs"][0]
    samples = [{name: image[None].astype(np.float32)} for image in images]
    with runtime.native_log_hidden():
        seen = made.calibrate({"serving_default": samples})
        return bytes(made.quantize(seen).quantized_model)


def converted(preset):
    """Function that converts with a preset here, and says what it did."""

    def make(model, content, images):
        made = tflite.convert(content, preset=preset, calibration=images)
        return made.tflite_model, made.as_dict()

    return make


def latency_ms(*models, runs=60):
    """Median CPU time of one image on one thread in ms, of each model; the models take turns."""
    return runner.latencies_ms(models, runs, clock=time.thread_time)


class Truth:
    """A float network's scores on the test images, computed once."""

    def __init__(self, content, images, labels):
        self.content, self.images, self.labels = content, images, labels
        self.model = classifier.open_classifier(content)
        self.scores = classifier.scores(self.model, images)
        self.log = log_probabilities(self.scores, self.model.output_activation)

    def measured(self, product):
        """The metrics of one file, but for its latency."""
        model = classifier.open_classifier(product)
        scores = classifier.scores(model, self.images)
        log = log_probabilities(scores, model.output_activation, output_scale=model.output_scale)
        top, other = self.scores.argmax(-1), scores.argmax(-1)
        drop = paired_statistics.drop(top == self.labels, other == self.labels)
        same = int((top == other).sum())
        return {
            "float_top1": float((top == self.labels).mean()),
            "top1": float((other == self.labels).mean()),
            "drop": drop.points,
            "drop_low": drop.confidence_interval[0],
            "drop_high": drop.confidence_interval[1],
            "agreement": same / len(top),
            "agreement_low": wilson(same, len(top))[0],
            "divergence": float(
                paired_statistics.divergences(self.log, log, self.model.output_activation).mean()
            ),
            "size_ratio": len(self.content) / len(product),
            "bytes": len(product),
            "fully_accelerated": runtime.is_fully_accelerated(product),
            "images": len(top),
        }


def latency(files, rounds=7):
    """{name: latency / float's} of a folder's files: medians of rounds, for machines that are never
    quiet.
    """
    contents = {path.stem: path.read_bytes() for path in sorted(files.glob("*.tflite"))}
    times = np.array([latency_ms(*contents.values()) for _ in range(rounds)])
    base = times[:, list(contents).index("float32")]
    return dict(zip(contents, map(float, np.median(times / base[:, None], 0))))


def kernels_agree(content, images):
    """Share of images with the same answer by the reference kernels and by XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    fast = classifier.scores(classifier.open_classifier(content), images).argmax(-1)
    with runtime.native_log_hidden():
        slow = Interpreter(
            model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
        )
        slow.allocate_tensors()
    return float(np.mean(fast == runner.scores(content, images, interpreter=slow).argmax(-1)))


def ablation(truth, calibration):
    """{step: metrics}: each step alone on min-max ranges."""
    from tflite.quantization import bias_correction
    from tflite.quantization.calibration import collect_histograms, hash_order

    calibration = calibration[hash_order(calibration)]
    content = fold_normalization(truth.content, images=calibration[:8])
    observed = collect_histograms(content, calibration)
    low = estimate_ranges(content, observed, "minmax")

    def make(changed, found):
        plan = tflite.make_plan(ops.read_ops(changed), "int8")
        return tflite.quantize(changed, found, plan)

    made = {"min-max": make(content, low)}
    made["ranges"] = make(content, estimate_ranges(content, observed, "swish"))
    equal = equalization.equalize(content, observed, images=calibration[:8])
    made["equalization"] = make(
        equal, estimate_ranges(equal, collect_histograms(equal, calibration), "minmax")
    )
    made["weight rounding"] = make(weight_rounding.round_weights(content, calibration[:64]), low)
    fixed = bias_correction.correct_biases(content, calibration, lambda c: make(c, low))
    made["bias correction"] = make(fixed, low)
    return {name: truth.measured(product) for name, product in made.items()}


def run(options, results):
    """Measures what is not in the results yet, and saves them after every entry."""
    todo = [part.split("=", 1) for part in options.networks]
    for name, path in todo:
        model = tflite.load_keras(path)
        size = model.inputs[0].shape[1] or options.image_size
        content = tflite.export_float32(
            model, image_size=None if model.inputs[0].shape[1] else size
        )
        calibration, _ = cifar(options.data, "train-*", CALIBRATION, size)
        images, labels = cifar(options.data, "validation-*", options.images, size)
        kinds = [(name, content)]
        if options.rescale:
            kinds.append((f"{name}, rescaled", rescaled(content, options.rescale)))
        for kind, network in kinds:
            entry = results.setdefault(kind, {})
            files = pathlib.Path(options.files) / kind.replace(", ", "-")
            files.mkdir(parents=True, exist_ok=True)
            (files / "float32.tflite").write_bytes(network)
            makers = {"baseline aeq": baseline_aeq} | {name: converted(name) for name in PRESETS}
            if network is content:  # of a .tflite TensorFlow's converter makes nothing
                makers["baseline tf"] = baseline_tf
            truth = None
            for contender in options.contenders:
                if contender in entry or contender not in makers:
                    continue
                truth = truth or Truth(network, images, labels)
                start = time.monotonic()
                # A budget is met on images that were not trained on, or it is not met at all.
                mixed = contender == "int8_mixed"
                seen = images[:BUDGET] if mixed else calibration
                rest = slice(BUDGET, None)
                measured_on = Truth(network, images[rest], labels[rest]) if mixed else truth
                try:
                    made = makers[contender](model, network, seen)
                except tflite.BudgetError as error:
                    entry[contender] = {"error": str(error)}
                    save(options, results)
                    continue
                seconds = time.monotonic() - start
                product, record = made if isinstance(made, tuple) else (made, None)
                metrics = {"seconds": seconds, **measured_on.measured(product)}
                (files / f"{contender}.tflite").write_bytes(product)
                if record is not None:
                    metrics["quantization_steps"] = record["quantization_steps"]
                    metrics["float32_regions"] = record["float32_regions"]
                    metrics["reference_kernels"] = kernels_agree(product, images[:REFERENCE_IMAGES])
                entry[contender] = metrics | where()
                save(options, results)
                print(f"{kind}: {contender}: {brief(metrics)}", flush=True)
            if options.mediapipe and "mediapipe" not in entry:
                theirs, _ = cifar(options.data, "validation-*", options.images, size, stretch)
                opened = classifier.open_classifier(network)
                right = [
                    float((classifier.scores(opened, pixels).argmax(-1) == labels).mean())
                    for pixels in (images, theirs)
                ]
                entry["mediapipe"] = {"top1": right[0], "mediapipe_top1": right[1]} | where()
                save(options, results)
                print(f"{kind}: {right[0]:.2%}, by MediaPipe's pixels {right[1]:.2%}", flush=True)
            if options.ablation and "ablation" not in entry:
                few = Truth(network, images[:ABLATION_IMAGES], labels[:ABLATION_IMAGES])
                entry["ablation"] = ablation(few, calibration)
                save(options, results)
                for step, metrics in entry["ablation"].items():
                    print(f"{kind}: {step} alone: {brief(metrics)}", flush=True)


def brief(f):
    """One line of metrics."""
    return (
        f"{f['float_top1']:.2%} -> {f['top1']:.2%}, agreement {f['agreement']:.2%}, KL "
        f"{f['divergence']:.4f}, size 1/{f['size_ratio']:.2f}"
    )


def where():
    """When, of which commit and on what."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    }


def save(options, results):
    """Writes the results atomically."""
    content = json.dumps(results, indent=1) + "\n"
    write_files({options.results: content.encode()})


def main():
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", help="folder of shards")
    parser.add_argument("--networks", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--contenders", nargs="*", default=[*BASELINES, *PRESETS])
    parser.add_argument(
        "--rescale", type=float, default=0.0, help="standard deviation of the log scales; 0: none"
    )
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument(
        "--mediapipe", action="store_true", help="float top-1 with MediaPipe's resize, too"
    )
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--image_size", type=int, default=64, help="of a network that takes any")
    parser.add_argument("--results", default=str(ROOT / "docs" / "results" / "int8.json"))
    parser.add_argument("--files", default="int8-files", help="folder that gets all files made")
    parser.add_argument("--latency", action="store_true", help="time the files, on a quiet machine")
    parser.add_argument("--doc", help="Markdown file to write the tables into")
    options = parser.parse_args()
    path = pathlib.Path(options.results)
    results = json.loads(path.read_text()) if path.exists() else {}
    run(options, results)
    if options.latency:
        for kind, entry in results.items():
            folder = pathlib.Path(options.files) / kind.replace(", ", "-")
            for name, ratio in latency(folder).items():
                if name in entry:
                    entry[name]["latency_ratio"] = ratio
                    print(f"{kind}: {name}: {ratio:.3f} of float's latency", flush=True)
        save(options, results)
    if options.doc:
        write_doc(options.doc, results)
    else:
        print(tables(results))


if __name__ == "__main__":
    main()
