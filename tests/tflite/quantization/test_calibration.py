import dataclasses
import hashlib
import os
import threading

import numpy as np
import pytest

import tflite
from keras_effnet.litert import ops, runner, runtime
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.calibration import (
    _BINS,
    _SAMPLE,
    CalibrationImages,
    _Accumulator,
    accumulate_histograms,
    collect_histograms,
    hash_order,
    merged_histograms,
    require_variety,
)


def test_ranges_are_the_extremes_of_every_activation(float_content, images):
    ranges = tflite.calibrate(float_content, images)
    assert ranges.keys() == ops.activations(float_content).keys()
    by_op = {op.output: op.name for op in tflite.read_ops(float_content)}
    for name, bounds in ranges.items():
        assert bounds["min"] <= bounds["max"]
        if by_op.get(name) == "LOGISTIC":
            assert 0 <= bounds["min"] <= bounds["max"] <= 1


def test_ranges_equal_those_of_ai_edge_quantizer(float_content, images):
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    with runtime.quiet():
        theirs = calibrator.Calibrator(float_content, qsv_update_func=qsv_utils.min_max_update)
        theirs.calibrate(
            {"serving_default": [{"images": i[None].astype(np.float32)} for i in images]},
            quantizer.Quantizer(float_content, recipe.static_wi8_ai8())._recipe_manager,
        )
    ours = tflite.calibrate(float_content, images)
    for name, qsv in theirs.get_model_qsvs().items():
        if name in ours and name != "serving_default_images:0":
            np.testing.assert_allclose(ours[name]["min"], qsv["min"].item(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(ours[name]["max"], qsv["max"].item(), rtol=1e-5, atol=1e-6)


def test_input_range_is_always_0_to_255(float_content, images):
    ranges = tflite.calibrate(float_content, images // 2)
    assert ranges["serving_default_images:0"] == {"min": 0.0, "max": 255.0}


def test_image_order_does_not_change_ranges(float_content, images):
    assert tflite.calibrate(float_content, images) == tflite.calibrate(float_content, images[::-1])


def test_too_few_images_are_an_error_by_default(float_content, images):
    with pytest.raises(ValueError, match=r"has 5 images and needs 16"):
        tflite.calibrate(float_content, images[:5])
    tflite.calibrate(float_content, images[:1], min_images=1)


@pytest.mark.parametrize(
    "change", [lambda x: x.astype(np.float32), lambda x: x[:, :16], lambda x: x[..., :1]]
)
def test_images_of_another_shape_or_type_are_errors(float_content, images, change):
    with pytest.raises(ValueError, match=r"takes uint8 \(n, 32, 32, 3\)"):
        tflite.calibrate(float_content, change(images))


def _values(model, images):
    """{tensor: values (images, ...)} of a float .tflite."""
    tensors = ops.activations(model)
    rows = {name: [] for name in tensors}
    for values in runner.run(model, images, tensors.values()):
        for name, index in tensors.items():
            rows[name].append(values[index][0])
    return {name: np.stack(values) for name, values in rows.items()}


def _same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        for field in dataclasses.fields(a[name]):
            x, y = (np.asarray(getattr(rows[name], field.name)) for rows in (a, b))
            assert x.tobytes() == y.tobytes(), (name, field.name)


def test_image_order_does_not_change_a_byte_of_a_histogram(trained_v1, photos):
    order = np.random.default_rng(0).permutation(20)
    _same(
        collect_histograms(trained_v1, photos[:20]),
        collect_histograms(trained_v1, photos[:20][order]),
    )


def test_hash_order_does_not_depend_on_the_input_order(photos):
    shuffled = photos[np.random.default_rng(0).permutation(len(photos))]
    np.testing.assert_array_equal(photos[hash_order(photos)], shuffled[hash_order(shuffled)])
    assert (hash_order(photos) != np.arange(len(photos))).any()


def test_extremes_are_exact(trained_v1, photos):
    values, histograms = (
        _values(trained_v1, photos[:16]),
        collect_histograms(trained_v1, photos[:16]),
    )
    assert values.keys() == histograms.keys()
    for name, row in histograms.items():
        assert (row.low, row.high) == (values[name].min(), values[name].max())


def test_histograms_equal_numpys(trained_v1, photos):
    """Although the bins were widened from image to image."""
    values, histograms = (
        _values(trained_v1, photos[:16]),
        collect_histograms(trained_v1, photos[:16]),
    )
    for name, row in histograms.items():
        maximum = _BINS * row.width
        assert maximum / 2 < np.abs(values[name]).max() <= maximum
        want, _ = np.histogram(values[name].ravel(), 2 * _BINS, (-maximum, maximum))
        np.testing.assert_array_equal(row.counts, want)
        assert row.centers[0] == -maximum + row.width / 2
        assert row.centers[-1] == maximum - row.width / 2


def test_images_have_equal_weight_whatever_their_scale(trained_v1, photos):
    values, histograms = (
        _values(trained_v1, photos[:16]),
        collect_histograms(trained_v1, photos[:16]),
    )
    for name, row in histograms.items():
        maximum = _BINS * row.width
        want = sum(
            np.histogram(image.ravel(), 2 * _BINS, (-maximum, maximum))[0] / np.mean(image**2)
            for image in values[name]
        )
        np.testing.assert_allclose(row.weights, want, rtol=1e-4)


def test_extremes_of_channels_are_exact(trained_v1, photos):
    values, histograms = (
        _values(trained_v1, photos[:16]),
        collect_histograms(trained_v1, photos[:16]),
    )
    for name, row in histograms.items():
        rows = values[name].reshape(-1, values[name].shape[-1])
        np.testing.assert_array_equal(row.channel_low, rows.min(0))
        np.testing.assert_array_equal(row.channel_high, rows.max(0))


def test_order_of_values_does_not_change_a_histogram():
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 10.0**e, (50, 4)).astype(np.float32) for e in (-3, 2, 0, -1, 1)]
    forwards, backwards = _Accumulator(), _Accumulator()
    for value in values:
        forwards.add(value)
        forwards.count()
    for value in reversed(values):
        backwards.add(value)
        backwards.count()
    a, b = forwards.result(), backwards.result()
    assert a.width == b.width
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.weights, b.weights)


def test_selected_tensors_have_the_same_histograms(trained_v1, photos):
    everything = collect_histograms(trained_v1, photos[:16])
    names = sorted(everything)[::5]
    _same(
        accumulate_histograms(trained_v1, photos[:16][hash_order(photos[:16])], only=names),
        {name: everything[name] for name in names},
    )


def test_large_tensors_are_sampled_but_extremes_are_exact():
    value = np.random.default_rng(0).normal(0, 1, (_SAMPLE, 3)).astype(np.float32)
    value[1, 1] = 77  # between two sampled positions
    accumulator = _Accumulator()
    accumulator.add(value)
    accumulator.count()
    histograms = accumulator.result()
    assert histograms.high == 77
    assert _SAMPLE / 2 < histograms.counts.sum() <= _SAMPLE + 3  # all channels of a position


def test_tensor_of_zeros_has_a_histogram():
    accumulator = _Accumulator()
    accumulator.add(np.zeros((5, 2), np.float32))
    accumulator.count()
    histograms = accumulator.result()
    assert (histograms.low, histograms.high, histograms.counts.sum()) == (0, 0, 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(trained_v1, photos, bad):
    graph = Graph(trained_v1)
    bias = next(op for op in graph.operations if op.name in LINEAR).inputs[2]
    value = graph.constant(bias)
    value[0] = bad
    graph.set_constant(bias, value)
    with pytest.raises(ValueError, match=r"weights are not finite; it cannot be quantized"):
        tflite.calibrate(graph.content(), photos[:16])


def test_nan_in_one_image_is_not_lost():
    accumulator = _Accumulator()
    for value in (1.0, np.nan, 2.0):
        accumulator.add(np.full((4, 2), value, np.float32))
        accumulator.count()
    assert np.isnan([accumulator.low, accumulator.high]).all()


def test_interpreters_are_made_in_the_main_thread(float_content, images, monkeypatch):
    """Making one hides the native log of the process: two at once would lose standard error."""
    kept, threads = runtime.interpreter, []

    def interpreter(*args, **options):
        threads.append(threading.current_thread())
        return kept(*args, **options)

    monkeypatch.setattr(runtime, "interpreter", interpreter)
    before = os.fstat(2)
    collect_histograms(float_content, images)
    assert set(threads) == {threading.main_thread()}
    assert (os.fstat(2).st_dev, os.fstat(2).st_ino) == (before.st_dev, before.st_ino)


def test_identical_images_are_an_error(photos):
    with pytest.raises(ValueError, match=r"the 16 calibration images are identical"):
        require_variety(np.repeat(photos[:1], 16, axis=0))
    require_variety(np.concatenate([np.repeat(photos[:1], 15, axis=0), photos[1:2]]))


def test_images_of_one_color_are_an_error():
    flat = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"every calibration image is of one color"):
        require_variety(flat)
    colours = flat.copy()
    colours[..., 0] += 100  # orange is one color, too
    with pytest.raises(ValueError, match=r"every calibration image is of one color"):
        require_variety(colours)
    flat[0, 0, 0] = 255
    require_variety(flat)


def test_calibration_images_are_sorted_and_hashed_once(photos):
    labels = np.arange(16)
    order = np.random.default_rng(0).permutation(16)
    a = CalibrationImages.ordered(photos[:16], labels)
    b = CalibrationImages.ordered(photos[:16][order], labels[order])
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.images, photos[a.labels])
    assert a.sha256 == b.sha256 == hashlib.sha256(a.images.tobytes()).hexdigest()
    assert len(a) == 16


def test_calibration_images_are_checked(photos):
    with pytest.raises(ValueError, match=r"has 15 images and needs 16"):
        CalibrationImages.ordered(photos[:15])
    with pytest.raises(ValueError, match=r"identical"):
        CalibrationImages.ordered(np.repeat(photos[:1], 16, axis=0))


def test_copies_of_a_calibration_image_are_no_evidence(photos):
    labels = np.arange(40) % 20
    copied = np.concatenate([photos[:20], photos[:20]])
    a, b = CalibrationImages.ordered(photos[:20]), CalibrationImages.ordered(copied, labels)
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(b.images, photos[b.labels])
    with pytest.raises(ValueError, match=r"30 images, and only 15 of them differ.*at least 16"):
        CalibrationImages.ordered(copied[labels < 15])


def test_merged_histograms_are_those_of_all_images(trained_v1, photos):
    whole = accumulate_histograms(trained_v1, photos[:20])
    parts = [accumulate_histograms(trained_v1, part) for part in (photos[:9], photos[9:20])]
    merged = merged_histograms(parts)
    assert merged.keys() == whole.keys()
    for name, histogram in whole.items():
        for field in dataclasses.fields(histogram):
            values = [getattr(each[name], field.name) for each in (merged, whole)]
            np.testing.assert_allclose(*values, rtol=1e-9, err_msg=f"{name}: {field.name}")
