"""Data sets of labeled images: folders, manifests, TFRecord shards, arrays, TensorFlow Datasets."""
