import json
import os

import numpy as np
import pytest

import tflite
from tflite import convert as convert_function  # the function: it has its module's name
from tflite import litert
from tflite.evaluation.classifier import open_classifier
from tflite.flatbuffer import metadata, ops
from tflite.flatbuffer.graph import Graph
from tflite.quantization import bias_correction, range_search

_QUICK = {"tune": False, "search_seconds": 0}


@pytest.fixture(scope="module")
def converted():
    """converted(model, preset, images) -> the Conversion without searches, made once."""
    made = {}

    def once(model, preset, images, **options):
        key = (model, preset, len(images), *options)
        if key not in made:
            calibrated = tflite.PRESETS[preset].calibrated
            made[key] = tflite.convert(
                model,
                preset=preset,
                calibration=images if calibrated else None,
                verification=None if calibrated else images,
                **{**_QUICK, **options},
            )
        return made[key]

    return once


def test_int8_in_one_call(model, images):
    lines = []
    made = tflite.convert(model, calibration=images, progress=lines.append, **_QUICK)
    assert made.preset == "int8"
    assert made.plan.calibration_images == 16
    assert "the calibration images" in made.report.source
    starts = (
        "Loading",
        "Converting",
        "Measuring",
        "Choosing",
        "Equalizing",
        "Correcting",
        "Compar",
    )
    for start in starts:
        assert any(line.startswith(start) for line in lines), start
    record = json.loads(json.dumps(made.as_dict()))
    assert record["calibration"]["images"] == 16
    assert record["remedies"][0]["name"] == "min-max ranges"
    assert "kept" not in record["remedies"][0]


@pytest.mark.parametrize("preset", tflite.PRESETS)
def test_every_preset_converts(preset, float_content, images, converted):
    made = converted(float_content, preset, images)
    row = tflite.PRESETS[preset]
    opened = open_classifier(made.tflite)
    assert (opened.classes, opened.height, opened.width) == (10, 32, 32)
    source, sink = ops.quantization(made.tflite)
    assert (source[0].lower(), sink[0].lower()) == (row.input, row.output)
    assert metadata.read(made.tflite) is not None
    assert ops.misaligned_buffers(made.tflite) == 0
    assert made.report.images == 16
    if preset != "float32":
        assert made.report.agreement > 0.6
        assert made.comparison.report == made.report
    json.dumps(made.as_dict())


@pytest.mark.parametrize("preset", ["float16", "int8", "int8_mixed", "weight_only"])
def test_what_is_for_a_cpu_runs_accelerated(preset, float_content, images, converted):
    assert litert.is_fully_accelerated(converted(float_content, preset, images).tflite)


def test_strict_int8_has_no_float(float_content, images, converted):
    made = converted(float_content, "int8_strict", images)
    assert {op.dtype for op in tflite.read_ops(made.tflite)} == {"INT8", "UINT8"}
    assert "CONCATENATION" not in ops.count_ops(tflite.read_ops(made.tflite))


def test_slow_presets_warn(float_content, images, converted):
    assert any(
        "int16 activations have no fast kernel" in line
        for line in converted(float_content, "int16x8", images).warnings
    )
    assert converted(float_content, "int8", images).warnings == ()


@pytest.mark.parametrize("preset", ["int8", "int8_strict"])
def test_logits_and_sigmoids_convert_too(preset, logits_content, images):
    made = tflite.convert(logits_content, preset=preset, calibration=images, **_QUICK)
    assert open_classifier(made.tflite).ending == "logits"
    assert made.report.divergence < 0.1
    network = Graph(logits_content)
    out = network.add_tensor("sigmoids", network.shape(network.output))
    network.insert(network.operations[-1], "LOGISTIC", (network.output,), out)
    network.operations[-2:] = reversed(network.operations[-2:])
    network._graph.outputs = [out]
    for signature in network._tree.signatureDefs:
        signature.outputs[0].tensorIndex = out
    made = tflite.convert(network.content(), preset=preset, calibration=images, **_QUICK)
    assert open_classifier(made.tflite).ending == "sigmoid"
    assert made.report.divergence < 0.1


def test_the_order_of_the_images_does_not_change_a_byte(float_content, images, converted):
    again = tflite.convert(float_content, calibration=images[::-1], **_QUICK)
    first = converted(float_content, "int8", images)
    assert again.tflite == first.tflite
    assert again.calibration["sha256"] == first.calibration["sha256"]


def test_a_float_tflite_is_the_float_file(float_content, images, converted):
    assert converted(float_content, "int8", images).float32_model == float_content


def test_class_names_are_in_the_file(float_content, images):
    names = [f"class {i}" for i in range(10)]
    made = tflite.convert(float_content, preset="weight_only", class_names=names)
    assert metadata.read(made.tflite).labels == tuple(names)
    assert made.class_names == tuple(names)


def test_verification_images_are_reported_on(float_content, images):
    labels = np.arange(8) % 10
    made = tflite.convert(
        float_content, calibration=images, verification=(images[:8], labels), **_QUICK
    )
    assert made.report.images == 8
    assert made.report.int8.top1 is not None
    assert "the calibration images" not in made.report.source


def test_float32_in_one_call(model, float_content, images):
    made = tflite.convert(model, preset="float32", verification=images)
    assert made.float32_model == float_content
    np.testing.assert_array_equal(
        *(litert.scores(litert.interpreter(c), images[:2]) for c in (made.tflite, float_content))
    )
    assert made.ranges is made.comparison is made.report.int8 is None


# budgets --------------------------------------------------------------------------------------


def _spoil(monkeypatch):
    """int8 loses answers: a range at the top is a sixth of what it takes, whatever is tried."""
    kept = litert.static

    def static(content, found, *args, **options):
        found = {
            name: {
                end: value / (6 if name.startswith("top_bn") else 1) for end, value in row.items()
            }
            for name, row in found.items()
        }
        return kept(content, found, *args, **options)

    monkeypatch.setattr(litert, "static", static)


def test_a_budget_makes_it_int8_mixed(trained_v1, photos):
    made = tflite.convert(trained_v1, calibration=photos[:24], min_agreement=0.5, **_QUICK)
    assert made.preset == "int8_mixed"
    assert made.budget.min_agreement == 0.5
    assert made.report.agreement >= 0.5


def test_islands_meet_a_budget_that_int8_misses(trained_v1, photos, monkeypatch):
    _spoil(monkeypatch)
    kept = range_search.islands
    monkeypatch.setattr(range_search, "islands", lambda *args: {"top": kept(*args)["top"]})
    # which would make up for the clipped range in the biases behind it
    monkeypatch.setattr(bias_correction, "correct_biases", lambda content, *_: content)
    photos = photos[:24]
    plain = tflite.convert(trained_v1, calibration=photos, **_QUICK)
    budget = plain.report.agreement + 0.05
    assert budget < 0.98
    made = tflite.convert(trained_v1, calibration=photos, min_agreement=budget, **_QUICK)
    assert made.islands
    assert made.report.agreement >= budget
    floats = {op.output for op in tflite.read_ops(made.tflite) if op.dtype == "FLOAT32"}
    for island in made.islands:
        assert set(island.outputs) <= floats
        assert "makes a divergence of" in island.why
    assert made.as_dict()["islands"][0]["ops"] == len(made.islands[0].outputs)


def test_a_budget_is_met_on_images_that_nothing_was_learned_from(trained_v1, photos, monkeypatch):
    """Where there are enough of them, and by their own labels."""
    images, seen = np.concatenate([photos, 255 - photos]), {}
    kept = bias_correction.correct_biases

    def learn(content, learned, *rest):
        seen["learned"] = {image.tobytes() for image in learned}
        return kept(content, learned, *rest)

    def meet(budget, unseen, labels, state, plan, *_):
        seen["unseen"] = [image.tobytes() for image in unseen.images]
        seen["labels"] = labels
        return plan, ()

    monkeypatch.setattr(bias_correction, "correct_biases", learn)
    monkeypatch.setitem(convert_function.__globals__, "within_budget", meet)
    labels = np.arange(len(images)) % 10
    tflite.convert(trained_v1, calibration=(images, labels), max_drop=50.0, **_QUICK)
    assert len(seen["unseen"]) == 48
    assert not seen["learned"] & set(seen["unseen"])
    own = {image.tobytes(): label for image, label in zip(images, labels)}
    assert [own[image] for image in seen["unseen"]] == seen["labels"].tolist()


def test_an_impossible_budget_says_what_the_best_is(trained_v1, photos, monkeypatch):
    monkeypatch.setattr(range_search, "islands", lambda *_: {})
    _spoil(monkeypatch)
    best = r"gives at least 100.00% .* best found: \d\d\.\d\d%"
    with pytest.raises(tflite.BudgetError, match=best):
        tflite.convert(trained_v1, calibration=photos[:24], min_agreement=1.0, **_QUICK)


def test_a_drop_is_measured_in_points_of_the_labels(trained_v1, photos, monkeypatch):
    labels = litert.scores(litert.interpreter(trained_v1), photos).argmax(-1)
    monkeypatch.setattr(range_search, "islands", lambda *_: {})
    _spoil(monkeypatch)
    with pytest.raises(tflite.BudgetError, match=r"at most 0 points .* points of top-1 lost"):
        tflite.convert(trained_v1, calibration=(photos[:24], labels[:24]), max_drop=0.0, **_QUICK)


@pytest.mark.parametrize("preset", ["weight_only", "int16x8"])
def test_int8_weights_are_rounded_by_the_images_that_are_given(trained_v1, photos, preset):
    made = tflite.convert(trained_v1, preset=preset, calibration=photos, **_QUICK)
    nearest, together = made.remedies
    assert together.name == "weight rounding"
    assert together.kept
    assert together.kl < 0.5 * nearest.kl
    got, want = (
        litert.scores(litert.interpreter(c), photos[:8]) for c in (made.prepared, trained_v1)
    )
    np.testing.assert_allclose(got, want, atol=1e-4)  # not rounded
    assert made.calibration["images"] == len(photos)


def test_weights_are_rounded_to_the_nearest_code_without_images(trained_v1, photos):
    made = tflite.convert(trained_v1, preset="weight_only", verification=photos)
    rounded = tflite.convert(trained_v1, preset="weight_only", calibration=photos)
    assert made.remedies == ()
    assert rounded.report.divergence < made.report.divergence


def test_blocks_are_compared_with_the_float_network_that_was_given(trained_v1, photos):
    made = tflite.convert(trained_v1, calibration=photos, **_QUICK)
    assert any(row.name == "bias correction" for row in made.remedies)
    got, want = (
        litert.scores(litert.interpreter(c), photos[:8]) for c in (made.prepared, trained_v1)
    )
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_bad_budgets_are_errors_before_anything_slow(model, images):
    def fails(match, **options):
        with pytest.raises(ValueError, match=match):
            tflite.convert(model, **{"calibration": images, **options})

    fails(r"max_drop -1 is no number of points", max_drop=-1)
    fails(r"min_agreement 97 is no share: .* e.g. 0.97", min_agreement=97)
    fails(r"preset int8 takes no budget", preset="int8", max_drop=1)
    fails(r"max_drop needs labelled calibration images", max_drop=1)


# input ----------------------------------------------------------------------------------------


def test_images_that_are_all_alike_are_an_error(float_content, images):
    with pytest.raises(ValueError, match=r"16 calibration images are all alike"):
        tflite.convert(float_content, calibration=np.repeat(images[:1], 16, axis=0))
    flat = np.broadcast_to(np.arange(20, 36, dtype=np.uint8)[:, None, None, None], images.shape)
    with pytest.raises(ValueError, match=r"of one colour"):
        tflite.convert(float_content, calibration=flat)


def test_a_truncated_tflite_is_an_error(float_content, images):
    with pytest.raises(ValueError, match=r"truncated or damaged"):
        tflite.convert(float_content[: len(float_content) // 2], calibration=images)
    with pytest.raises(ValueError, match=r"not a .tflite file"):
        tflite.convert(b"no model at all", calibration=images)


def test_a_tflite_that_is_quantized_already_is_an_error(int8_content, images):
    with pytest.raises(ValueError, match=r"float32"):
        tflite.convert(int8_content, calibration=images, **_QUICK)


def test_a_tflite_that_takes_normalised_pixels_is_an_error(float_content, images):
    """Its ranges would be those of pixels that it never gets."""
    content = metadata.attach(float_content, mean=127.5, std=127.5)
    with pytest.raises(ValueError, match=r"pixel"):
        tflite.convert(content, calibration=images, **_QUICK)


def test_bad_input_is_an_error_before_anything_slow(model, images, monkeypatch):
    def slow(*_, **__):
        raise AssertionError("converted")

    monkeypatch.setitem(convert_function.__globals__, "export_float32", slow)

    def fails(match, **options):
        with pytest.raises(ValueError, match=match):
            tflite.convert(model, **{"calibration": images, **options})

    fails("Unknown preset 'int88'. Did you mean 'int8'", preset="int88")
    fails("needs calibration images", calibration=None)
    fails("takes no calibration images", preset="float32")
    fails("3 class names for a model with 10 outputs", class_names=["a", "b", "c"])
    fails(
        "labels run from 0 to 10, and the model has 10", verification=(images, np.arange(16) % 11)
    )
    fails("image_size 64 does not fit", image_size=64)
    fails(r"scaled to \[0, 1\]", calibration=images / 255)
    fails("has 3 images and needs 16", calibration=images[:3])


def test_saving_leaves_whole_files_and_nothing_beside(model, tmp_path):
    made = tflite.convert(model, preset="float32")
    names = [f"class {i}" for i in range(10)]
    tflite.save(made, tmp_path / "m.tflite", class_names=names)
    assert sorted(os.listdir(tmp_path)) == ["m.tflite", "m.tflite.json", "m.tflite.labels.txt"]
    assert (tmp_path / "m.tflite").read_bytes() == made.tflite
    assert json.loads((tmp_path / "m.tflite.json").read_text())["preset"] == "float32"
    assert (tmp_path / "m.tflite.labels.txt").read_text().splitlines() == names


def test_a_comparison_is_saved_as_a_page_and_as_json(float_content, images, converted, tmp_path):
    made = converted(float_content, "int8", images)
    tflite.save(made, tmp_path / "m.tflite")
    assert sorted(os.listdir(tmp_path)) == ["m.tflite", "m.tflite.html", "m.tflite.json"]
    page = (tmp_path / "m.tflite.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "min-max ranges" in page
    record = json.loads((tmp_path / "m.tflite.json").read_text())
    assert record["report"]["agreement"] == made.report.agreement
    assert record["size"] == len(made.tflite)


def test_a_failed_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    made = tflite.convert(model, preset="float32")
    (tmp_path / "m.tflite").write_bytes(b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        tflite.save(made, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == ["m.tflite"]
    assert (tmp_path / "m.tflite").read_bytes() == b"old"
