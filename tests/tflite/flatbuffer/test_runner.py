import threading
import time

import numpy as np
import pytest

from keras_effnet.litert import runner, runtime


def by_hand(tflite_model, images, names):
    interpreter = runtime.interpreter(tflite_model, keep_tensors=True)
    feed = interpreter.get_input_details()[0]
    indices = {d["name"]: d["index"] for d in interpreter.get_tensor_details()}
    rows = []
    for image in images:
        interpreter.set_tensor(feed["index"], image[None].astype(feed["dtype"]))
        interpreter.invoke()
        rows.append({name: interpreter.get_tensor(indices[name]) for name in names})
    return rows


def an_inner_tensor(tflite_model):
    details = runtime.interpreter(tflite_model, keep_tensors=True).get_tensor_details()
    return next(d for d in details if "block1a" in d["name"] and len(d["shape"]) == 4)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_run_yields_the_values_of_every_image_in_order(int8_content, images, threads, count):
    name = an_inner_tensor(int8_content)["name"]
    want = by_hand(int8_content, images[:count], [name])
    rows = [dict(row) for row in runner.run(int8_content, images[:count], [name], threads=threads)]
    assert len(rows) == count
    for row, values in zip(rows, want):
        np.testing.assert_array_equal(row[name], values[name])


def test_tensors_can_be_given_by_index(float_content, images):
    details = an_inner_tensor(float_content)
    (row,) = runner.run(float_content, images[:1], [details["name"], details["index"]])
    assert list(row) == [details["name"], details["index"]]


def test_a_view_has_the_value_until_it_would_change(float_content, images):
    rows = runner.run(float_content, images[:3])
    for number, values in enumerate(rows):
        (name,) = values
        assert not values.view(name).flags.owndata
        np.testing.assert_array_equal(values.view(name), values[name])
        if number == 1:
            break
    kept = values.view(name)
    with pytest.raises(RuntimeError, match="reference to internal data"):
        next(rows)
    del kept


def test_values_are_copies_and_expire_with_the_next_image(float_content, images):
    rows = runner.run(float_content, images[:2])
    first = next(rows)
    (name,) = first
    kept = first[name]
    before = kept.copy()
    next(rows)
    np.testing.assert_array_equal(kept, before)
    with pytest.raises(RuntimeError, match="belong to an earlier image"):
        first[name]


def test_an_unknown_tensor_is_an_error_before_the_first_image(float_content, images):
    with pytest.raises(KeyError, match="nowhere"):
        runner.run(float_content, images, ["nowhere"])


def test_interpreters_are_made_in_the_callers_thread(float_content, images, monkeypatch):
    """Making one hides the native log of the whole process: two at once lose standard error."""
    make, threads = runtime.interpreter, []

    def interpreter(*args, **options):
        threads.append(threading.current_thread())
        return make(*args, **options)

    monkeypatch.setattr(runtime, "interpreter", interpreter)
    list(runner.run(float_content, images, threads=2))
    assert threads == [threading.main_thread()] * 2


def test_an_early_stop_of_the_caller_ends_the_threads(float_content, images):
    rows = runner.run(float_content, images, threads=2)
    next(rows)
    rows.close()
    assert threading.active_count() == 1 or not [
        t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name
    ]


def test_to_input_prepares_each_image(float_content, images):
    halved = runner.scores(float_content, images[:3] // 2)
    rows = runner.run(
        float_content,
        images[:3],
        to_input=lambda image, details: (image[None] // 2).astype(details["dtype"]),
    )
    np.testing.assert_array_equal([row.real(next(iter(row)))[0] for row in rows], halved)


def test_scores_of_a_quantized_output_are_real_numbers(int8_content, images):
    scores = runner.scores(int8_content, images)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(-1), 1, atol=0.02)


def test_models_take_turns_when_they_are_timed(float_content, int8_content, images):
    ticks = iter(np.cumsum([0, 1, 0, 2] * 3).tolist())
    got = runner.latencies_ms(
        [float_content, int8_content], 3, images=images[:2], clock=lambda: next(ticks)
    )
    assert got == [1000, 2000]


def test_latencies_are_milliseconds_of_this_thread(float_content):
    start = time.perf_counter()
    (got,) = runner.latencies_ms([float_content], 5, clock=time.thread_time)
    assert 0 <= got <= 1e3 * (time.perf_counter() - start)
