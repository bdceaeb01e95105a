import dataclasses

import numpy as np
import tensorflow as tf

from tpu_train.input_pipeline.data_loading import from_folder
from tpu_train.input_pipeline.image_source import split


def test_cropping_a_jpeg_equals_cropping_its_pixels(photos):
    source = from_folder(photos)
    window = tf.constant([3, 5, 20, 30])
    for i in range(source.examples):
        stored = source.read(tf.constant(i))
        pixels = tf.io.decode_image(stored, channels=3).numpy()
        np.testing.assert_array_equal(source.shape(stored), pixels.shape)
        crop = source.crop(stored, window).numpy().astype(int)
        assert np.abs(crop - pixels[3:23, 5:35]).max() <= 8  # chroma at the border of the crop


def test_split_holds_out_a_fraction_of_every_class(source):
    training, evaluation = split(source, 0.25, seed=3)
    assert np.bincount(evaluation.labels, minlength=4).tolist() == [2, 2, 2, 2]
    assert training.examples + evaluation.examples == source.examples
    images = [
        s.read(tf.constant(i)).numpy().tobytes()
        for s in (training, evaluation)
        for i in range(s.examples)
    ]
    assert len(set(images)) == 24
    again, _ = split(source, 0.25, seed=3)
    np.testing.assert_array_equal(again.labels, training.labels)


def test_where_names_the_image_of_an_index(photos):
    source = from_folder(photos)
    assert source.where(0) == str(photos / "cat" / "0.JPEG")
    assert source.take([6, 0]).where(0) == str(photos / "dog" / "2.JPEG")


def test_split_keeps_several_labels_together(source):
    labels = np.array([[0, 1], [2, -1]] * 12, np.int32)
    several = dataclasses.replace(source, labels=labels)
    assert several.is_multi_label
    assert not source.is_multi_label
    training, evaluation = split(several, 0.25, seed=1)
    assert (training.labels.shape, evaluation.labels.shape) == ((18, 2), (6, 2))
    held_out = [int(evaluation.where(i)) for i in range(6)]
    np.testing.assert_array_equal(evaluation.labels, labels[held_out])
