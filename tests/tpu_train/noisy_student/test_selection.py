import numpy as np
import pytest

from tpu_train.noisy_student.selection import SelectionRule, select

LABELS = np.array([0] * 6 + [1] * 3 + [2])
CONFIDENCES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1, 0.9, 0.4, 0.2, 0.6])
CLASSES = ("cat", "dog", "owl")


def chosen(**rule):
    return select(LABELS, CONFIDENCES, CLASSES, SelectionRule(**rule))


def test_the_most_confident_images_of_every_class_are_selected():
    selection = chosen(images_per_class=3)
    assert selection.rows.tolist() == [0, 1, 2, 6, 7, 9]
    assert selection.used.tolist() == [3, 2, 1]
    assert selection.labeled.tolist() == [6, 3, 1]
    assert selection.confident.tolist() == [5, 2, 1]


def test_images_of_rare_classes_are_repeated_equally_often():
    selection = chosen(images_per_class=5)
    copies = dict(zip(selection.rows.tolist(), selection.copies.tolist()))
    assert [copies[i] for i in range(5)] == [1] * 5
    assert sorted([copies[6], copies[7]]) == [2, 3]
    assert copies[9] == 5
    assert selection.total.tolist() == [5, 5, 5]
    assert chosen(images_per_class=5).copies.tolist() == selection.copies.tolist()


def test_by_default_a_class_has_the_mean_number():
    assert chosen().total.tolist() == [3, 3, 3]  # 8 confident images


def test_without_balance_all_confident_images_are_selected_once():
    selection = chosen(balance=False, threshold=0.5)
    assert selection.rows.tolist() == [0, 1, 2, 3, 4, 6, 9]
    assert set(selection.copies) == {1}


def test_images_that_cannot_be_selected_are_an_error():
    with pytest.raises(ValueError, match=r"no image has a confidence of 0.95 .* highest is 0.900"):
        chosen(threshold=0.95)
    with pytest.raises(ValueError, match=r"no image is labeled owl with .*lower --threshold, add"):
        chosen(threshold=0.7)
    with pytest.raises(ValueError, match=r"no image is labeled fox with .* more: add images"):
        select(LABELS, CONFIDENCES, (*CLASSES, "fox"), SelectionRule())
    assert chosen(threshold=0.7, balance=False).used.tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match="none of the images can be read"):
        select(LABELS[:0], CONFIDENCES[:0], CLASSES, SelectionRule())
