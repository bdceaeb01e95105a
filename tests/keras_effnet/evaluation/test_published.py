import pytest

from keras_effnet.evaluation.per_class import Share
from keras_effnet.evaluation.published import find_published


def test_a_measured_accuracy_is_compared_with_the_published_one():
    published = find_published("efficientnet-lite0", "imagenet-pypi")
    assert published.top1 == 0.751
    close = published.compare(Share.of(37_480, 50_000), 50_000)
    assert close["agrees"]
    assert "published top-1 of efficientnet-lite0 imagenet-pypi: 75.1%" in close["message"]
    far = published.compare(Share.of(180, 200), 200)
    assert not far["agrees"]
    assert "these are 200" in far["message"]


@pytest.mark.parametrize(
    ("model", "weights", "error"),
    [
        ("my.keras", None, "is not a name of `effnet models`: drop --check"),
        ("efficientnetv2-xl", "imagenet21k", "no published figure for efficientnetv2-xl"),
        ("efficientnet-b0", "imagenett", "Did you mean 'imagenet'"),
    ],
)
def test_weights_without_a_published_figure_are_an_error(model, weights, error):
    with pytest.raises(ValueError, match=error):
        find_published(model, weights)
