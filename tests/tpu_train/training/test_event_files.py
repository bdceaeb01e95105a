import glob

import pytest
import tensorflow as tf

from tpu_train.training.event_files import truncate_events


def write(folder, steps):
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for step in steps:
            tf.summary.scalar("loss", 0.5, step=step)
    writer.close()


def recorded_steps(folder):
    """The steps in all event files, in the order in which TensorBoard reads them."""
    return [
        event.step
        for path in sorted(glob.glob(str(folder / "*.tfevents.*")))
        for event in tf.compat.v1.train.summary_iterator(path)
        if event.HasField("summary")
    ]


def test_events_of_later_steps_are_removed_from_all_files(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [3, 4])
    before = {path.name for path in tmp_path.iterdir()}
    truncate_events(str(tmp_path), 3)
    assert recorded_steps(tmp_path) == [1, 2, 3]
    truncate_events(str(tmp_path), 1)
    assert recorded_steps(tmp_path) == [1]
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_event_that_a_kill_has_cut_is_dropped(tmp_path):
    write(tmp_path, [1, 2, 3])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    truncate_events(str(tmp_path), 3)
    assert recorded_steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_events_is_left_as_it_is(tmp_path, name):
    (tmp_path / "other").write_text("x")
    truncate_events(str(tmp_path / name), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
