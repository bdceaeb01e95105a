"""``effnet-train`` with several chunks and shards of few images, for processes of tests."""

from tpu_train import cli
from tpu_train.noisy_student import pseudo_labels, score_chunks

CHUNK, IMAGES_PER_SHARD = 16, 12


def main(words):
    score_chunks.CHUNK, pseudo_labels.IMAGES_PER_SHARD = CHUNK, IMAGES_PER_SHARD
    return cli.main(words)
