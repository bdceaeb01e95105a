import numpy as np
import pytest

from tpu_train.search.trial_images import split_images

LABELS = np.repeat(np.arange(4), [100, 50, 30, 20])
CLASSES = tuple("abcd")


def test_images_and_minival_are_disjoint_and_have_every_class():
    training, minival = split_images("x", LABELS, CLASSES, 0.2, 80)
    assert len(np.intersect1d(training, minival)) == 0
    assert np.bincount(LABELS[minival]).tolist() == [20, 10, 6, 4]
    assert np.bincount(LABELS[training]).tolist() == [40, 20, 12, 8]


def test_all_images_but_the_minival_are_used_on_demand():
    training, minival = split_images("x", LABELS, CLASSES, 40, 0)
    assert (len(training), len(minival)) == (160, 40)


@pytest.mark.parametrize("minival", [0, 0.01, 5, 150, 20.5, -1])
def test_a_minival_that_the_data_cannot_give_is_refused(minival):
    with pytest.raises(ValueError, match="x has 200 training images, which do not give a minival"):
        split_images("x", LABELS, CLASSES, minival, 80)


def test_too_few_images_for_the_classes_are_refused():
    with pytest.raises(ValueError, match="--images=3 is less than one for each of 4 classes"):
        split_images("x", LABELS, CLASSES, 0.2, 3)
