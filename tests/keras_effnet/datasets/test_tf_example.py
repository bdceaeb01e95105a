import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.datasets.tf_example import parse_example


def _example(**features):
    """A tf.train.Example, serialized by TensorFlow."""

    def feature(values):
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    named = {name: feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def test_parsing_matches_tensorflow():
    rng = np.random.default_rng(0)
    for count in (1, 2, 200):
        ints = rng.integers(-(2**63), 2**63 - 1, count).tolist()
        ints[0] = [0, 1, 127, 128, -1, 2**63 - 1, -(2**63)][count % 7]
        strings = [rng.bytes(n) for n in rng.integers(0, 400, count)]
        serialized = _example(ints=ints, strings=strings, floats=[0.5, 1.5])
        features = parse_example(serialized)
        assert features == {
            "ints": ("int64", ints),
            "strings": ("bytes", strings),
            "floats": ("float", []),
        }
        parsed = tf.io.parse_single_example(
            serialized,
            {
                "ints": tf.io.VarLenFeature(tf.int64),
                "strings": tf.io.VarLenFeature(tf.string),
            },
        )
        assert features["ints"][1] == parsed["ints"].values.numpy().tolist()
        assert features["strings"][1] == parsed["strings"].values.numpy().tolist()


def _field(number, content):
    """A length-delimited field of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def _entry(name, feature):
    return _field(1, _field(1, name) + _field(2, feature))


def test_unusual_encodings_are_parsed_as_protobuf_specifies():
    def parsed(*entries):
        return parse_example(_field(1, b"".join(entries)))

    assert parse_example(b"") == {}
    assert parsed(_entry(b"a", b"")) == {"a": ("", [])}
    unpacked = _field(3, b"\x08\x05\x08\xac\x02")  # as written before proto3
    assert parsed(_entry(b"a", unpacked)) == {"a": ("int64", [5, 300])}
    twice = _entry(b"a", unpacked), _entry(b"a", _field(3, _field(1, b"\x07")))
    assert parsed(*twice) == {"a": ("int64", [7])}
    unknown = b"\x31" + bytes(8) + b"\x3d" + bytes(4) + b"\x40\x01"  # fields of a later version
    assert parsed(_entry(b"a", unknown + unpacked), unknown) == {"a": ("int64", [5, 300])}
    for content in (b"\x0a", b"\x0a\x05ab", b"\x31\x00", b"\x0b", b"\xff" * 11):
        with pytest.raises(ValueError, match=r"unexpected end|wire type 3|more than 64 bits"):
            parse_example(content)


def test_any_bytes_parse_or_raise_a_value_error():
    rng = np.random.default_rng(0)
    content = _example(image=[bytes(99)], label=[1, 3], name=[b"x.png"])
    for _ in range(500):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), 3):
            damaged[at] = rng.integers(256)
        try:
            parse_example(bytes(damaged))
        except ValueError:
            continue
