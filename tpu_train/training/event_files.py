"""TensorBoard's event files: removes the events of steps that a resumed run trains again."""

from __future__ import annotations

import os

import tensorflow as tf

from keras_effnet.atomic_write import remove_leftovers, replacing


def truncate_events(folder: str, last_step: int) -> None:
    """Rewrites the event files directly in a local folder without the events after `last_step`.

    An incomplete last event, left by a kill, is dropped. Files stay, even if nothing is left.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if ".tfevents." in name]
    remove_leftovers(folder, names)
    for path in [os.path.join(folder, name) for name in names]:
        events, complete = _read(path)
        kept = [text for text, step in events if step <= last_step]
        if complete and len(kept) == len(events):
            continue
        with replacing(path) as temporary, tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
            for text in kept:
                writer.write(text)


def _read(path):
    """([(serialized event, its step), ...], whether the file ends with a complete event)."""
    events = []
    try:
        for text in tf.data.TFRecordDataset(path).as_numpy_iterator():
            events.append((text, tf.compat.v1.Event.FromString(text).step))
    except tf.errors.DataLossError:
        return events, False
    return events, True
