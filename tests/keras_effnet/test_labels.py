import numpy as np
import pytest

import keras_effnet
from keras_effnet.labels import decode_predictions, imagenet_classes, label_map


def test_imagenet_classes_are_in_wordnet_order():
    names = imagenet_classes()
    assert len(names) == 1000
    assert [names[i].split(",")[0] for i in (0, 388, 850, 999)] == [
        "tench", "giant panda", "teddy", "toilet tissue",
    ]  # fmt: skip


def test_all_classes_but_teddy_bear_are_in_imagenet21k():
    index = label_map(21843)
    assert len(index) == 1000
    known = [i for i in index if i >= 0]
    assert len(set(known)) == 999
    assert known == sorted(known)  # both are sorted by WordNet's numbers
    assert max(known) < 21843
    assert index[850] == -1


def test_1001_classes_start_with_background():
    assert label_map(1001) == list(range(1, 1001))
    assert label_map(1000) is None


def test_predictions_are_named_and_sorted():
    scores = np.zeros((2, 1000))
    scores[0, 207], scores[0, 388], scores[1, 0] = 0.7, 0.2, 0.5
    first, second = decode_predictions(scores, top=2)
    assert first == [
        ("n02099601", "golden_retriever", 0.7),
        ("n02510455", "giant_panda", 0.2),
    ]
    assert second[0] == ("n01440764", "tench", 0.5)
    (named,) = decode_predictions(scores[:1], top=1, class_names=imagenet_classes())
    assert named == [(207, "golden retriever", 0.7)]
    assert decode_predictions(scores[:1, :300], top=1) == [[(207, "207", 0.7)]]


def test_wrong_numbers_of_class_names_are_errors():
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        decode_predictions(np.zeros((1, 3)), class_names=["a", "b"])
    with pytest.raises(ValueError, match="give \\(images, classes\\)"):
        decode_predictions(np.zeros(3))


@pytest.mark.parametrize("top", [-1, 2.5, True, "5"])
def test_a_top_that_is_no_number_of_classes_is_an_error(top):
    with pytest.raises(ValueError, match=f"top {top!r} is not a number of classes"):
        decode_predictions(np.eye(3), top=top)


def test_scores_that_are_not_finite_are_no_predictions():
    with pytest.raises(ValueError, match="scores are not finite"):
        decode_predictions(np.full((1, 1000), np.nan))


def test_the_functions_of_keras_applications_answer():
    pixels = np.zeros((1, 4, 4, 3))
    assert keras_effnet.preprocess_input(pixels) is pixels
    assert keras_effnet.preprocess_input(pixels, data_format="channels_last") is pixels
    (best,) = keras_effnet.decode_predictions(np.eye(1000)[[1]], top=1)
    assert best == [("n01443537", "goldfish", 1.0)]
