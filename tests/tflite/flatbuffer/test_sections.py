import numpy as np
import pytest

import tflite
from keras_effnet.litert import ops, runner
from tflite.flatbuffer.sections import Sections, run_until


def _value(tensors, index):
    return tensors[index]


def test_sections_compute_what_the_whole_model_does(int8_content, images):
    sections = Sections(int8_content)
    values = sections.first(images[:3])
    rows = tflite.read_ops(int8_content)
    for place in range(3, len(rows), 11):
        name = rows[place].output
        got, values = sections.run(int8_content, values, sections.position(name), _value)
        assert values.position == place
        whole = runner.run(int8_content, images[:3], [name])
        for mine, tensors in zip(got, whole):
            np.testing.assert_array_equal(mine, tensors[name])


def test_an_operation_is_repeated_with_a_changed_constant(int8_content, images):
    changed = bytearray(int8_content)
    sections = Sections(changed)
    places = ops.bias_locations(changed)
    name = list(places)[3]
    _, values = sections.run(changed, sections.first(images[:2]), sections.position(name), _value)
    start, scales = places[name]
    bias = np.frombuffer(changed, np.int32, len(scales), start) + 1000
    changed[start : start + bias.nbytes] = bias.astype(np.int32).tobytes()
    got, _ = sections.run(changed, values, sections.position(name), _value)
    before, after = (
        [tensors[name] for tensors in runner.run(bytes(content), images[:2], [name])]
        for content in (int8_content, changed)
    )
    np.testing.assert_array_equal(got, after)
    assert np.any(np.not_equal(got, before))


def test_an_unknown_tensor_has_no_position(int8_content):
    with pytest.raises(KeyError, match="nowhere"):
        Sections(int8_content).position("nowhere")


def test_run_until_computes_tensors_in_any_order_and_the_input(trained_v1, photos):
    activations = list(ops.activations(trained_v1).items())
    chosen = dict([activations[40], activations[0], activations[25]])
    wholes = runner.run(trained_v1, photos[:3], chosen.values())
    parts = run_until(trained_v1, photos[:3], chosen.values(), threads=2)
    for whole, part in zip(wholes, parts, strict=True):
        for index in chosen.values():
            np.testing.assert_allclose(part[index], whole[index], rtol=1e-4, atol=1e-4)


def test_run_until_ends_at_the_last_tensor(trained_v1, photos, monkeypatch):
    rows = tflite.read_ops(trained_v1)
    tensors = ops.activations(trained_v1)
    models = []
    run_section = runner.run_section

    def record(model, *args, **options):
        models.append(model)
        return run_section(model, *args, **options)

    monkeypatch.setattr(runner, "run_section", record)
    list(run_until(trained_v1, photos[:1], [tensors[rows[9].output], tensors[rows[4].output]]))
    assert [row.output for row in tflite.read_ops(models[0])] == [r.output for r in rows[:10]]


def test_run_until_without_tensors_runs_nothing(trained_v1, photos):
    assert list(run_until(trained_v1, photos[:2], [])) == []
