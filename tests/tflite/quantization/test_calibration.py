import dataclasses
import os
import threading

import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.flatbuffer import ops
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.calibration import (
    _BINS,
    _SAMPLE,
    _Accumulator,
    collect_histograms,
    hash_order,
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


def test_ranges_are_those_of_the_quantizers_own_calibrator(float_content, images):
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    from tflite import litert

    with litert._quiet():
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


def test_the_inputs_range_means_pixels_whatever_the_images(float_content, images):
    ranges = tflite.calibrate(float_content, images // 2)
    assert ranges["serving_default_images:0"] == {"min": 0.0, "max": 255.0}


def test_the_order_of_the_images_does_not_matter(float_content, images):
    assert tflite.calibrate(float_content, images) == tflite.calibrate(float_content, images[::-1])


def test_too_few_images_are_an_error_unless_asked_for(float_content, images):
    with pytest.raises(ValueError, match=r"has 5 images and needs 16"):
        tflite.calibrate(float_content, images[:5])
    tflite.calibrate(float_content, images[:1], min_images=1)


@pytest.mark.parametrize(
    "change", [lambda x: x.astype(np.float32), lambda x: x[:, :16], lambda x: x[..., :1]]
)
def test_images_of_another_kind_are_errors(float_content, images, change):
    with pytest.raises(ValueError, match=r"takes uint8 \(n, 32, 32, 3\)"):
        tflite.calibrate(float_content, change(images))


def _values(content, images):
    """{tensor: values (images, ...)} of a float .tflite, straight from the interpreter."""
    made = litert.interpreter(content, keep_tensors=True)
    rows = {name: [] for name in ops.activations(content)}
    for image in images:
        made.set_tensor(made.get_input_details()[0]["index"], image[None].astype(np.float32))
        made.invoke()
        for name, index in ops.activations(content).items():
            rows[name].append(made.get_tensor(index)[0])
    return {name: np.stack(values) for name, values in rows.items()}


def _same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        for field in dataclasses.fields(a[name]):
            x, y = (np.asarray(getattr(seen[name], field.name)) for seen in (a, b))
            assert x.tobytes() == y.tobytes(), (name, field.name)


def test_what_is_observed_is_the_same_to_the_byte_in_any_order(trained, photos):
    order = np.random.default_rng(0).permutation(20)
    _same(collect_histograms(trained, photos[:20]), collect_histograms(trained, photos[:20][order]))


def test_the_order_of_images_is_their_own(photos):
    shuffled = photos[np.random.default_rng(0).permutation(len(photos))]
    np.testing.assert_array_equal(photos[hash_order(photos)], shuffled[hash_order(shuffled)])
    assert (hash_order(photos) != np.arange(len(photos))).any()


def test_extremes_are_exact(trained, photos):
    values, seen = _values(trained, photos[:16]), collect_histograms(trained, photos[:16])
    assert values.keys() == seen.keys()
    for name, row in seen.items():
        assert (row.low, row.high) == (values[name].min(), values[name].max())


def test_histograms_are_numpys_of_all_values(trained, photos):
    """Though every image came with the bins of those before it."""
    values, seen = _values(trained, photos[:16]), collect_histograms(trained, photos[:16])
    for name, row in seen.items():
        reach = _BINS * row.width
        assert reach / 2 < np.abs(values[name]).max() <= reach
        want, _ = np.histogram(values[name].ravel(), 2 * _BINS, (-reach, reach))
        np.testing.assert_array_equal(row.counts, want)
        assert row.centers[0] == -reach + row.width / 2
        assert row.centers[-1] == reach - row.width / 2


def test_every_image_weighs_as_much_whatever_its_scale(trained, photos):
    values, seen = _values(trained, photos[:16]), collect_histograms(trained, photos[:16])
    for name, row in seen.items():
        reach = _BINS * row.width
        want = sum(
            np.histogram(image.ravel(), 2 * _BINS, (-reach, reach))[0] / np.mean(image**2)
            for image in values[name]
        )
        np.testing.assert_allclose(row.weights, want, rtol=1e-4)


def test_channels_have_their_own_statistics(trained, photos):
    values, seen = _values(trained, photos[:16]), collect_histograms(trained, photos[:16])
    for name, row in seen.items():
        rows = values[name].reshape(-1, values[name].shape[-1])
        np.testing.assert_array_equal(row.channel_low, rows.min(0))
        np.testing.assert_array_equal(row.channel_high, rows.max(0))


def test_a_histogram_is_of_the_values_and_not_of_their_order():
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 10.0**e, (50, 4)).astype(np.float32) for e in (-3, 2, 0, -1, 1)]
    made = [_Accumulator(), _Accumulator()]
    for value in values:
        made[0].add(value)
    for value in reversed(values):
        made[1].add(value)
    a, b = (counter.result() for counter in made)
    assert a.width == b.width
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.weights, b.weights)


def test_of_some_tensors_as_much_is_seen_as_of_all(trained, photos):
    everything = collect_histograms(trained, photos[:16])
    names = sorted(everything)[::5]
    _same(
        collect_histograms(trained, photos[:16], only=names),
        {name: everything[name] for name in names},
    )


def test_of_large_tensors_a_sample_is_counted_and_extremes_are_of_all():
    value = np.random.default_rng(0).normal(0, 1, (_SAMPLE, 3)).astype(np.float32)
    value[1, 1] = 77  # between two that are counted
    counter = _Accumulator()
    counter.add(value)
    seen = counter.result()
    assert seen.high == 77
    assert _SAMPLE / 2 < seen.counts.sum() <= _SAMPLE + 3  # whole positions


def test_a_tensor_of_zeros_has_a_histogram():
    counter = _Accumulator()
    counter.add(np.zeros((5, 2), np.float32))
    seen = counter.result()
    assert (seen.low, seen.high, seen.counts.sum()) == (0, 0, 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(trained, photos, bad):
    network = Graph(trained)
    bias = next(op for op in network.operations if op.name in LINEAR).inputs[2]
    value = network.constant(bias)
    value[0] = bad
    network.set_constant(bias, value)
    with pytest.raises(ValueError, match=r"weights are not finite; it cannot be quantized"):
        tflite.calibrate(network.content(), photos[:16])


def test_a_nan_of_one_image_is_not_lost_among_the_others():
    counter = _Accumulator()
    for value in (1.0, np.nan, 2.0):
        counter.add(np.full((4, 2), value, np.float32))
    assert np.isnan([counter.low, counter.high]).all()


def test_interpreters_are_made_one_after_the_other(float_content, images, monkeypatch):
    """Making one hides the native log for the whole process: two at once lose standard error."""
    kept, made = litert.interpreter, []

    def interpreter(*args, **options):
        made.append(threading.current_thread())
        return kept(*args, **options)

    monkeypatch.setattr(litert, "interpreter", interpreter)
    before = os.fstat(2)
    collect_histograms(float_content, images)
    assert set(made) == {threading.main_thread()}
    assert (os.fstat(2).st_dev, os.fstat(2).st_ino) == (before.st_dev, before.st_ino)


def test_images_that_are_all_alike_are_an_error(photos):
    with pytest.raises(ValueError, match=r"the 16 calibration images are all alike"):
        require_variety(np.repeat(photos[:1], 16, axis=0))
    require_variety(np.concatenate([np.repeat(photos[:1], 15, axis=0), photos[1:2]]))


def test_images_of_one_colour_are_an_error():
    flat = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"every calibration image is of one colour"):
        require_variety(flat)
    colours = flat.copy()
    colours[..., 0] += 100  # orange is one colour as well
    with pytest.raises(ValueError, match=r"every calibration image is of one colour"):
        require_variety(colours)
    flat[0, 0, 0] = 255
    require_variety(flat)
