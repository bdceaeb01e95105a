import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tflite
from keras_effnet.litert import ops


def _cifar10(folder, pattern, count):
    """(images, labels) of the first `count` records of a split."""
    shards = sorted(str(path) for path in folder.glob(pattern))
    if not shards:
        pytest.skip(f"{folder} contains no {pattern}")
    images, labels = [], []
    for record in tf.data.TFRecordDataset(shards).take(count):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        jpeg = features["image/encoded"].bytes_list.value[0]
        images.append(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        labels.append(features["image/class/label"].int64_list.value[0] - 1)  # counted from 1
    return np.stack(images), np.array(labels)


@pytest.mark.slow
def test_trained_network_keeps_its_predictions_in_int8(shared, capsys):
    path = shared / "models" / "efficientnetv2-b0_cifar10_64.keras"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    data = shared / "data" / "cifar10"
    conversion = tflite.convert(
        tflite.load_keras(path),
        calibration=_cifar10(data, "train-*", 256)[0],
        evaluation=_cifar10(data, "validation-*", 1000),
    )
    report = conversion.report
    with capsys.disabled():
        print(f"\n{conversion.plan}\n\n{report}\n")
    assert report.reference.top1 > 0.8
    assert report.agreement >= 0.975  # min-max ranges: 0.966 to 0.975
    assert report.candidate.top1 > report.reference.top1 - 0.015
    assert report.candidate.fully_accelerated
    assert report.size_ratio > 3.2
    assert ops.misaligned_buffers(conversion.tflite_model) == 0
    # the border of the image and the logits
    assert set(report.candidate.float_ops) == {"CONCATENATION", "FULLY_CONNECTED"}
