import io
import types

import numpy as np
import pytest

from keras_effnet.datasets.arrays import from_arrays
from keras_effnet.datasets.labeled_images import ImageFiles, LabeledImages
from keras_effnet.evaluation import scoring
from keras_effnet.evaluation.outcomes import ScoreKind
from keras_effnet.evaluation.scoring import progress_lines, score_images

CLASSES = 3
VALUES = np.arange(23)  # image i has all pixels i; it is scored as class i % 3


def classifier(batch=4, batches=None):
    """Scores the value of an image's pixels modulo the classes."""

    def scores(images):
        if batches is not None:
            batches.append(images[:, 0, 0, 0].tolist())
        return np.eye(CLASSES, dtype=np.float32)[images[:, 0, 0, 0] % CLASSES]

    return types.SimpleNamespace(
        batch=batch,
        scores=scores,
        kind_of=lambda _: ScoreKind(CLASSES, "softmax"),
        image_input=types.SimpleNamespace(prepare=lambda image: image[:2, :2]),
    )


def data(labels=VALUES % CLASSES):
    pixels = np.tile(VALUES.astype(np.uint8)[:, None, None, None], (1, 4, 4, 3))
    return from_arrays("pixels", pixels, labels, "abc")


@pytest.mark.parametrize("batch", [1, 4, 23, 64])
def test_every_image_is_scored_once_and_in_order(batch):
    batches, steps = [], []
    scored = score_images(
        classifier(batch, batches), data(), range(3), progress=lambda *at: steps.append(at)
    )
    assert [value for values in batches for value in values] == VALUES.tolist()
    assert scored.indices.tolist() == VALUES.tolist()
    assert scored.outcomes.correct.all()
    assert steps == [(i + 1, 23) for i in range(23)]


def test_labels_are_the_outputs_of_the_datas_classes():
    scored = score_images(classifier(), data((VALUES + 1) % CLASSES), [2, 0, 1])
    assert scored.outcomes.correct.all()


def photos(tmp_path, broken):
    from PIL import Image

    paths = [str(tmp_path / f"{i}.png") for i in range(6)]
    for i, path in enumerate(paths):
        Image.new("RGB", (4, 4), (i, i, i)).save(path)
    for i in broken:
        (tmp_path / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    files = ImageFiles(tuple(paths), tuple(paths))
    return LabeledImages("photos", tuple("abc"), files, np.arange(6) % 3)


def test_unreadable_images_are_left_out_and_named(tmp_path):
    scored = score_images(classifier(), photos(tmp_path, [1, 4]), range(3))
    assert scored.indices.tolist() == [0, 2, 3, 5]
    assert scored.outcomes.correct.all()
    assert [message.split(".png")[0][-1] for message in scored.unreadable] == ["1", "4"]


@pytest.mark.parametrize(
    ("broken", "limit", "error"),
    [([1, 4], 1, "more than 1 images cannot be read: .*1.png.*--max_corrupt"), (range(6), 6, "no")],
)
def test_too_many_unreadable_images_are_an_error(tmp_path, broken, limit, error):
    with pytest.raises(ValueError, match=error):
        score_images(classifier(), photos(tmp_path, broken), range(3), max_unreadable=limit)


@pytest.mark.parametrize(
    ("labels", "error"), [(None, "has no labels"), (-np.ones(23, int), "23 images have no label")]
)
def test_images_without_labels_are_an_error(labels, error):
    pixels = np.zeros((23, 4, 4, 3), np.uint8)
    images = LabeledImages("x", tuple("abc"), from_arrays("x", pixels).storage, labels)
    with pytest.raises(ValueError, match=error):
        score_images(classifier(), images, range(3))


def test_images_are_read_at_most_two_batches_ahead(monkeypatch):
    read, ahead = [], []
    images = data()
    original = type(images).pixels
    monkeypatch.setattr(
        type(images), "pixels", lambda self, i, **_: (read.append(i), original(self, i))[1]
    )
    score_images(
        classifier(4), images, range(3), progress=lambda done, _: ahead.append(len(read) - done)
    )
    assert max(ahead) <= 8


def test_progress_has_images_rate_and_time_left(monkeypatch):
    clock = iter([0.0, 4.0, 11.0, 12.0])
    monkeypatch.setattr(scoring.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    show = progress_lines(stream)
    for done in (40, 110, 120):
        show(done, 330)
    assert stream.getvalue() == "110/330 images, 10 images/s, 22 s left\n"
