import pytest

from keras_effnet.evaluation.class_matching import match_classes, wordnet_ids_of
from keras_effnet.labels import imagenet_classes

PETS = ["cat", "dog", "Grey_Owl"]


@pytest.mark.parametrize(
    ("data", "outputs", "names", "matched", "note"),
    [
        (["cat", "dog", "grey owl"], 3, PETS, (0, 1, 2), "in its order"),
        (["dog", "grey-owl", "Cat"], 3, PETS, (1, 2, 0), "in another order"),
        (["Grey Owl"], 3, PETS, (2,), "1 of the model's 3 classes"),
        (["0", "1", "2"], 3, PETS, (0, 1, 2), "are numbers"),
        (["0", "1", "2"], 3, None, (0, 1, 2), "are numbers"),
        (["1", "2"], 3, None, (0, 1), "in the order of the model's outputs"),
        (["0", "2"], 3, None, (0, 2), "of the model's outputs, from 0"),
        (["0", "2"], 3, PETS, (0, 2), "of the model's outputs, from 0"),
        (["1", "10", "2"], 3, None, (0, 1, 2), "no class names"),
        (["a", "b", "c"], 3, None, (0, 1, 2), "no class names"),
        (["n01440764", "n01443537"], 1000, None, (0, 1), "2 of the model's 1,000"),
        (["n01440764", "n01443537"], 1001, None, (1, 2), "2 of the model's 1,001"),
        (["Tinca tinca", "golden_retriever"], 1000, None, (0, 207), "matched by name"),
        (["tench"], 1000, imagenet_classes(), (0,), "matched by name"),
        (imagenet_classes(), 1000, imagenet_classes(), tuple(range(1000)), "in its order"),
        (["crane", "crane"], 2, ["crane", "crane"], (0, 1), "in its order"),
        (["1", "2"], 1001, None, (1, 2), "are numbers"),
    ],
)
def test_classes_are_matched(data, outputs, names, matched, note):
    match = match_classes(data, outputs, names)
    assert match.outputs == matched
    assert note in match.note
    assert len(match.names) == outputs


@pytest.mark.parametrize(
    ("data", "outputs", "names", "error"),
    [
        (["cat", "dgo"], 3, PETS, r"not among the model's 3 \(cat, dog, Grey_Owl\): 'dgo'.*'dog'"),
        (["cat", "Cat"], 3, PETS, r"'cat' and 'Cat' are both the model's class 'cat'"),
        (["cat", "dog"], 3, None, r"3 outputs without names, the data has 2 classes \(cat, dog\)"),
        (["cat"], 3, ["cat", "dog"], r"2 class names for a model with 3 outputs"),
        (["crane"], 1000, None, r"classes 134 and 517: use their WordNet ids"),
        (["cat"], 3, ["cat", "cat", "dog"], r"'cat' is the name of the model's classes 0 and 1"),
        (list(map(str, range(5))), 3, PETS, r"has 5 classes, which are numbers.* 3 outputs"),
    ],
)
def test_a_mismatch_is_one_error_with_the_names(data, outputs, names, error):
    with pytest.raises(ValueError, match=error):
        match_classes(data, outputs, names)


def test_wordnet_ids_come_from_all_file_names_or_none():
    assert wordnet_ids_of(["a/n01440764_1.JPEG", "n02123045.png"]) == ["n01440764", "n02123045"]
    assert wordnet_ids_of(["a/n01440764_1.JPEG", "cat.png"]) is None
    assert wordnet_ids_of([]) is None
