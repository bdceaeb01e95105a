import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tpu_train.noisy_student.conftest import write_teacher
from tpu_train.training.distribution import make_strategy
from tpu_train.training.teacher import make_teacher, match_teacher, open_teacher, with_distillation


def test_logits_are_those_of_the_classes_of_the_data(tmp_path):
    path = str(write_teacher(tmp_path, "dbca"))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    scores = keras.saving.load_model(path)(images.astype(np.float32)).numpy()
    logits = make_teacher(path, tuple("abcd"), make_strategy("cpu")).logits(
        tf.constant(images), "softmax"
    )
    np.testing.assert_allclose(tf.nn.softmax(logits), scores[:, [3, 1, 2, 0]], atol=1e-5)


def test_scores_are_kept_by_a_student_with_a_sigmoid_loss(tmp_path):
    path = str(write_teacher(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    scores = keras.saving.load_model(path)(images.astype(np.float32)).numpy()
    teacher = make_teacher(path, tuple("abcd"), make_strategy("cpu"))
    logits = teacher.logits(tf.constant(images), "sigmoid")
    np.testing.assert_allclose(tf.sigmoid(logits), scores, atol=1e-5)


def test_images_are_resized_to_the_input_of_the_teacher(tmp_path):
    teacher = make_teacher(str(write_teacher(tmp_path)), tuple("abcd"), make_strategy("cpu"))
    small, large = (tf.fill([2, side, side, 3], 90.0) for side in (32, 48))
    np.testing.assert_allclose(
        teacher.logits(small, "softmax"), teacher.logits(large, "softmax"), atol=1e-4
    )


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_is_the_weighted_sum_of_labels_and_teacher(conv_recipe, loss):
    random = np.random.default_rng(0)
    taught, logits = (tf.constant(random.normal(0, 3, (6, 4)), tf.float32) for _ in range(2))
    terms = tf.constant(random.random(6), tf.float32)
    recipe = dataclasses.replace(
        conv_recipe, loss=loss, teacher_temperature=2.0, teacher_weight=0.25
    )
    actual = with_distillation(terms, taught, logits, recipe).numpy()
    if loss == "softmax":
        p, q = (tf.nn.softmax(x / 2).numpy() for x in (taught, logits))
        distance = -(p * np.log(q)).sum(1)
    else:
        p, q = (tf.sigmoid(x / 2).numpy() for x in (taught, logits))
        distance = -(p * np.log(q) + (1 - p) * np.log(1 - q)).sum(1)
    np.testing.assert_allclose(actual, 0.75 * terms + 0.25 * 4 * distance, rtol=1e-4)


def test_a_teacher_of_other_classes_is_an_error(tmp_path):
    teacher = open_teacher(str(write_teacher(tmp_path / "a")), make_strategy("cpu"))
    with pytest.raises(ValueError, match="has 4 classes, and the labeled data have 3"):
        match_teacher(teacher, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"has other classes: .*'x'"):
        match_teacher(teacher, ("a", "b", "c", "x"))
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.save(tmp_path / "grey.keras")
    with pytest.raises(ValueError, match="cannot be a teacher: it must take RGB images"):
        open_teacher(str(tmp_path / "grey.keras"), make_strategy("cpu"))


@pytest.mark.slow
def test_training_with_teacher_and_pseudo_labels_on_one_and_two_devices(
    train_conv, pseudo_labeled, exported_weights, tmp_path, stop_at, source
):
    changes = {
        "teacher": str(write_teacher(tmp_path / "teacher")),
        "teacher_temperature": 2.0,
        "unlabeled_ratio": 2.0,
        "mixup_first": 0.2,
        "mixup_last": 0.2,
    }
    run = {"data": pseudo_labeled, "evaluation": source, "changes": changes}
    one = exported_weights(train_conv("one", **run))
    two = exported_weights(train_conv("two", device="cpu:2", **run))
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    with pytest.raises(Exception, match="Stopped after step 6"):
        train_conv("stopped", stop=stop_at(2), **run)
    resumed = exported_weights(train_conv("stopped", **run))
    for a, b in zip(one, resumed):
        np.testing.assert_array_equal(a, b)


def test_the_log_says_how_the_classes_of_a_teacher_were_matched(train_conv, log, tmp_path):
    path = write_teacher(tmp_path / "teacher")
    (tmp_path / "teacher" / "labels.txt").unlink()
    train_conv(changes={"teacher": str(path), "epochs": 1})
    assert f"the teacher is {path}: the model has no class names: its 4 outputs are" in log()


@pytest.mark.parametrize(
    ("ratio", "has_images", "message"),
    [
        (2.0, False, r"there are no pseudo-labeled images: give --unlabeled=SHARDS"),
        (0.0, True, r"unlabeled_ratio is 0, so the images of unlabeled would not be used"),
    ],
)
def test_a_ratio_without_images_or_images_without_a_ratio_is_an_error(
    train_conv, source, pseudo_labeled, ratio, has_images, message
):
    data = pseudo_labeled if has_images else source
    with pytest.raises(ValueError, match=message):
        train_conv(data=data, changes={"unlabeled_ratio": ratio})
