import contextlib
import dataclasses
import json

import numpy as np
import pytest

from tests.tpu_train.noisy_student.conftest import write_teacher
from tpu_train.input_pipeline.data_loading import of_images
from tpu_train.input_pipeline.pseudo_labeled import open_pseudo_labels
from tpu_train.input_pipeline.tfrecord_shard import PrepareError
from tpu_train.noisy_student import pseudo_labels, score_chunks
from tpu_train.noisy_student.hosts import Hosts, hosts_of_environment
from tpu_train.noisy_student.pseudo_labels import LabelingOptions, write_pseudo_labels
from tpu_train.noisy_student.score_chunks import distributed_classifier, score_all
from tpu_train.noisy_student.selection import SelectionRule
from tpu_train.noisy_student.unlabeled_images import open_unlabeled
from tpu_train.training.distribution import make_strategy
from tpu_train.training.teacher import open_teacher

QUIET = LabelingOptions(log=lambda line: None)


pytestmark = pytest.mark.usefixtures("small_parts")


def label(teacher, photos, folder, options=QUIET):
    images = open_unlabeled(photos)
    return write_pseudo_labels(teacher, images, folder, make_strategy("cpu"), options)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def shards(teacher, photos, small_parts, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("labels") / "shards", []
    label(teacher, photos, folder, LabelingOptions(log=lines.append))
    return folder, lines


def test_scores_are_equal_on_one_and_two_devices(teacher_path, photos, tmp_path):
    images, scores = open_unlabeled(photos), []
    for device in ("cpu", "cpu:2"):
        folder = tmp_path / device.replace(":", "")
        folder.mkdir()
        strategy = make_strategy(device)
        teacher = open_teacher(str(teacher_path), strategy)
        classifier = distributed_classifier(teacher, strategy)
        scores.append(score_all(classifier, "softmax", images, str(folder), hosts=Hosts()))
    assert scores[0].values.shape == (60, 4)
    np.testing.assert_allclose(scores[0].values, scores[1].values, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(scores[0].rows, np.arange(60))


def test_shards_have_the_teachers_scores_of_an_evaluation(teacher, photos, shards):
    images, source = open_unlabeled(photos), open_pseudo_labels(shards[0], "abcd")
    pixels = np.stack([teacher.classifier.image_input.prepare(image.pixels) for image in images])
    expected = teacher.model(pixels.astype(np.float32)).numpy()
    for i in range(0, source.examples, 7):
        distance = np.abs(expected - source.read_scored(i)[1].numpy()).max(1)
        best = int(distance.argmin())
        assert distance[best] < 1e-5
        assert source.read(i).numpy() == images.stored(best)
        assert source.labels[i] == expected[best].argmax()


def test_an_interrupted_labeling_ends_with_the_same_bytes(
    teacher, photos, shards, tmp_path, monkeypatch
):
    def interrupt_at(module, name, count):
        original, calls = getattr(module, name), iter(range(count))

        def function(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, function)
            with pytest.raises(KeyboardInterrupt):
                label(teacher, photos, tmp_path / "out")

    interrupt_at(score_chunks, "_score_chunk", 2)
    assert (tmp_path / "out" / ".partial" / "scores-00001.npz").exists()
    with pytest.raises(ValueError, match="is an incomplete output"):
        open_pseudo_labels(tmp_path / "out", "abcd")
    interrupt_at(pseudo_labels, "write_shard", 1)
    interrupt_at(pseudo_labels, "write_report", 0)
    assert not label(teacher, photos, tmp_path / "out").was_complete
    assert content(tmp_path / "out") == content(shards[0])
    assert label(teacher, photos, tmp_path / "out").was_complete


def test_hosts_share_the_chunks_and_shards(teacher, photos, shards, tmp_path, monkeypatch):
    computed = []
    original = score_chunks._score_chunk

    def score_chunk(classifier, activation, images, first, *rest):
        computed.append(first)
        return original(classifier, activation, images, first, *rest)

    monkeypatch.setattr(score_chunks, "_score_chunk", score_chunk)
    for number, complete in ((1, False), (0, False), (1, False), (0, True)):
        options = dataclasses.replace(QUIET, hosts=Hosts(number, 2, wait_seconds=0.0))
        with contextlib.ExitStack() as stack:  # each in turn until it has to wait for the other
            if not complete:
                expected = pytest.raises(PrepareError, match="other hosts have not written")
                stack.enter_context(expected)
            label(teacher, photos, tmp_path / "out", options)
    assert computed == [16, 48, 0, 32]
    assert content(tmp_path / "out") == content(shards[0])
    cluster = {"chief": ["a:1"], "worker": ["b:1"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert hosts_of_environment(5.0) == Hosts(1, 2, 5.0)


def test_only_the_chief_removes_the_shards_of_another_threshold(
    teacher, photos, shards, tmp_path, monkeypatch
):
    """Another host that is slower would remove those that the chief has written since."""
    out = tmp_path / "out"
    rule = SelectionRule(0.2)
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels, "write_report", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            label(teacher, photos, out, dataclasses.replace(QUIET, rule=rule))
    written = sorted(p.name for p in out.glob("unlabeled-*"))
    assert written
    options = dataclasses.replace(QUIET, hosts=Hosts(1, 2, wait_seconds=0.0))
    with pytest.raises(PrepareError, match="other hosts have not written this selection, in 0 s"):
        label(teacher, photos, out, options)
    assert sorted(p.name for p in out.glob("unlabeled-*")) == written


def _interrupt(*_):
    raise KeyboardInterrupt


def test_a_resumed_labeling_reads_every_chunk_of_scores_once(
    teacher, photos, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels, "write_shard", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            label(teacher, photos, tmp_path / "out")
    read, read_file = [], score_chunks.read_file
    monkeypatch.setattr(
        score_chunks, "read_file", lambda path: read.append(path) or read_file(path)
    )
    label(teacher, photos, tmp_path / "out")
    assert len(read) == len(set(read)) == 4


def test_statistics_come_before_the_shards_and_a_page_after_them(shards, photos):
    folder, lines = shards
    assert "60 images labeled" in lines[0]
    assert (
        f"{photos} has the folders x, y: their names are not used"
        in open_unlabeled(photos).notes[0]
    )
    assert lines.index(next(line for line in lines if line.startswith("d "))) < lines.index(
        "shard 1 of 4 written and verified"
    )
    page = (folder / "pseudo_labels.html").read_text()
    assert "Least certain images that are used" in page
    assert page.count("<figure>") >= 20


def test_labels_follow_the_order_of_the_labeled_data(shards):
    straight, reverse = (open_pseudo_labels(shards[0], classes) for classes in ("abcd", "dcba"))
    np.testing.assert_array_equal(straight.labels, 3 - reverse.labels)
    np.testing.assert_array_equal(
        straight.read_scored(0)[1].numpy(), reverse.read_scored(0)[1].numpy()[::-1]
    )
    assert np.bincount(straight.labels).tolist() == [15] * 4  # balanced
    with pytest.raises(ValueError, match="pseudo-labels of 4 classes, and the labeled data have 2"):
        open_pseudo_labels(shards[0], ("a", "b"))
    with pytest.raises(ValueError, match=r"has other classes: .*'x'"):
        open_pseudo_labels(shards[0], "abcx")


def copy_photos(photos, folder, damaged=()):
    """Copies the photos, those at the indices `damaged` only in half."""
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        copy, content = folder / path.relative_to(photos), path.read_bytes()
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content[: len(content) // 2] if i in damaged else content)


def test_hosts_select_the_same_images_if_one_is_repaired(teacher, photos, shards, tmp_path):
    """Between the start of the host that scores it and that of another host."""
    copy_photos(photos, tmp_path / "photos", damaged=[20])  # of the second host
    for number, complete in ((1, False), (0, False), (1, False), (0, True)):
        options = dataclasses.replace(QUIET, hosts=Hosts(number, 2, wait_seconds=0.0))
        with contextlib.ExitStack() as stack:
            if not complete:
                stack.enter_context(pytest.raises(PrepareError, match="other hosts have not"))
            label(teacher, tmp_path / "photos", tmp_path / "out", options)
        copy_photos(photos, tmp_path / "photos")
    for name in (f"unlabeled-0000{n}-of-00004" for n in range(4)):
        assert (tmp_path / "out" / name).read_bytes() == (shards[0] / name).read_bytes()


def test_images_are_not_selected_again_if_one_is_repaired(teacher, photos, tmp_path, monkeypatch):
    copy_photos(photos, tmp_path / "photos", damaged=[20])
    label(teacher, tmp_path / "photos", tmp_path / "expected")
    write_shard, calls = pseudo_labels.write_shard, []
    with monkeypatch.context() as patch:
        patch.setattr(
            pseudo_labels,
            "write_shard",
            lambda *args: _interrupt() if calls else calls.append(write_shard(*args)),
        )
        with pytest.raises(KeyboardInterrupt):
            label(teacher, tmp_path / "photos", tmp_path / "out")
    copy_photos(photos, tmp_path / "photos")
    label(teacher, tmp_path / "photos", tmp_path / "out", dataclasses.replace(QUIET, max_corrupt=0))
    assert content(tmp_path / "out") == content(tmp_path / "expected")


def test_repaired_images_are_read_by_the_next_call(teacher, photos, shards, tmp_path):
    copy_photos(photos, tmp_path / "photos", damaged=[3, 20])  # of two chunks
    options = dataclasses.replace(QUIET, max_corrupt=1)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"2 images cannot be read: .*Repair or remove them"):
            label(teacher, tmp_path / "photos", tmp_path / "out", options)
    copy_photos(photos, tmp_path / "photos")
    label(teacher, tmp_path / "photos", tmp_path / "out", options)
    for name in (f"unlabeled-0000{n}-of-00004" for n in range(4)):
        assert (tmp_path / "out" / name).read_bytes() == (shards[0] / name).read_bytes()


def test_evaluation_images_are_left_out_and_named(shards, photos):
    images = open_unlabeled(photos)
    held_out = of_images(
        dataclasses.replace(
            images.take([7, 8, 9, 10, 11, 12]), classes=("a",), known_labels=np.zeros(6, int)
        )
    )
    everything, rest = (open_pseudo_labels(shards[0], "abcd", h) for h in ((), (held_out,)))
    assert not everything.notes
    (note,) = rest.notes
    assert "pseudo-labeled images that are evaluation images, too" in note
    assert str(photos) in note
    assert rest.examples < everything.examples


def test_other_content_of_the_folder_is_an_error(teacher, photos, shards, tmp_path):
    other = open_teacher(
        str(write_teacher(tmp_path / "other", sharpness=0.002)), make_strategy("cpu")
    )
    with pytest.raises(ValueError, match=r"with other flags \(different teacher\)"):
        label(other, photos, shards[0])
    with pytest.raises(ValueError, match=r"with other flags \(threshold 0.3, now 0.5\)"):
        label(teacher, photos, shards[0], dataclasses.replace(QUIET, rule=SelectionRule(0.5)))
    with pytest.raises(ValueError, match=r"has no pseudo-labels: label the images first"):
        open_pseudo_labels(photos, "abcd")
    with pytest.raises(ValueError, match=r"no image has a confidence of 1\.0"):
        label(
            teacher, photos, tmp_path / "out", dataclasses.replace(QUIET, rule=SelectionRule(1.0))
        )
    label(teacher, photos, tmp_path / "out")  # resumes with another threshold
    assert content(tmp_path / "out") == content(shards[0])
