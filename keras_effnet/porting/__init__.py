"""Other projects' checkpoints -> ours, each with a report of how far the answers are from the
source's; and the way back to timm's and torchvision's state dicts.

Sources: keras.applications, qubvel/efficientnet, leondgarse's keras_efficientnet_v2 and kecam,
Google's TensorFlow checkpoints, timm, torchvision (:data:`SOURCES`). Importing this imports no
framework.
"""

import os
from dataclasses import replace

from keras_effnet.network_plan import plan
from keras_effnet.porting.parity_report import Difference, Report
from keras_effnet.porting.reference_models import NotRunnableError, of_keras, random_images
from keras_effnet.porting.sources import SOURCES, find_network, find_source
from keras_effnet.porting.state_dicts import read_config
from keras_effnet.pretrained.registry import default_preprocessing
from keras_effnet.variants import VARIANTS

__all__ = ["SOURCES", "Difference", "Report", "export", "port"]


def port(
    path,
    model,
    *,
    source,
    classes=None,
    include_top=True,
    normalization=None,
    preprocessing=None,
    image_size=None,
    compare=True,
):
    """Another project's weights as one of our networks: ``(keras.Model, Report)``.

    The model takes (batch, size, size, 3) pixels in [0, 255] and gives (batch, classes)
    probabilities, or (batch, size / 32, size / 32, channels) without `include_top`. Where the
    source's own package can be imported, both networks see the same random images, and the report
    says how far they are apart after every block.

    Args:
        path: a file of the source; a checkpoint's prefix or folder for "tensorflow".
        model: the network's name there ("tf_efficientnet_b0", with or without timm's
            ".ns_jft_in1k") or ours ("efficientnet-b0").
        source: a name of :data:`SOURCES`.
        classes: how many the file must have; None takes what it has.
        include_top: whether to keep the classifier.
        normalization: a ``Normalization``, where these weights expect another than the source's
            usual one (e.g. AdvProp's); timm's ``config.json`` beside the file is heeded by itself.
        preprocessing: a ``Preprocessing``, in the same way.
        image_size: pixels a side of the model; default: what the source trains it for.
        compare: whether to run the source's network.

    Raises:
        ValueError: an unknown name, a file that is damaged or of something else, with every missing
            and left-over weight named; or another number of classes.

    >>> port("model.safetensors", "efficientnet-b9", source="torchvision")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: Unknown model of torchvision 'efficientnet-b9'. Did you mean ...
    """
    row = find_source(source)
    model = model.partition(".")[0]  # timm's names may go on with a weight set's: .ns_jft_in1k
    said = read_config(path) if source == "timm" else {}
    name, variant = find_network(row, _named_beside(row, model, said, path))
    usual = said.get("normalization") or variant.normalization
    variant = replace(variant, normalization=normalization or usual)
    prepared = (
        preprocessing
        or said.get("preprocessing")
        or row.preprocessing.get(name)
        or default_preprocessing(VARIANTS[variant.name])
    )
    prepared = replace(prepared, image_size=image_size or prepared.image_size)
    variant = replace(variant, image_size=prepared.image_size)
    resolved = plan(variant)
    stored = row.read(path, resolved, include_top=include_top)

    from keras_effnet.constructors import create_model
    from keras_effnet.pretrained import files  # here, so that names and errors need no framework

    network = create_model(
        variant,
        include_top=include_top,
        classes=_classes(path, stored, classes) if include_top else 1000,
        preprocessing=prepared,
    )
    files.assign(network, stored, path)
    differences, why_not = (), "not asked for"
    if compare:
        differences, why_not = _compare(row, path, name, resolved, variant, stored, network)
    arrays = sum(len(arrays) for arrays in stored.values())
    return network, Report(
        source=f"{source} {name}",
        path=os.fspath(path),
        model=variant.name,
        mapped=arrays,
        total=len(network.weights),
        notes=_notes(resolved, prepared),
        differences=differences,
        not_compared=why_not,
    )


def export(model, path, *, target, name):
    """Writes one of our models as a ``.safetensors`` state dict of timm or torchvision, which their
    ``load_state_dict`` takes strictly.

    `target` is "timm" or "torchvision", `name` the network's name there or ours. Raises
    ``ValueError`` for a model whose batch-norm epsilon, padding or layers are not that network's:
    it would load and answer otherwise.
    """
    row = find_source(target)
    if row.write is None:
        able = ", ".join(n for n, r in SOURCES.items() if r.write is not None)
        raise ValueError(f"{target} is read, not written: give one of {able}")
    theirs, variant = find_network(row, name)
    layers = {layer.name: layer for layer in model.layers}
    if "stem_bn" not in layers:
        raise ValueError(f"{model.name} is not a network of keras_effnet: it has no stem_bn")
    have = (layers["stem_bn"].epsilon, "symmetric" if "stem_conv_pad" in layers else "same")
    want = (variant.bn_epsilon, variant.padding)
    if have != want:
        raise ValueError(
            f"{model.name} has epsilon {have[0]:g} and {have[1]} padding, and {target}'s {theirs} "
            f"has {want[0]:g} and {want[1]}: it would give other answers there"
        )
    from keras_effnet.porting import pytorch

    temporary = f"{os.fspath(path)}.part"
    try:
        pytorch.write(model, temporary, plan(variant), row.write)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _named_beside(row, model, said, path):
    """The network's name, where a config.json beside the file settles which of two it is."""
    architecture = said.get("architecture")
    if architecture is None or architecture not in row.variants:
        return model
    if model in (architecture, row.variants[architecture].name):
        return architecture
    raise ValueError(f"{path} is of {architecture}, says the config.json beside it, not of {model}")


def _classes(path, stored, classes):
    if "predictions" not in stored:
        raise ValueError(
            f"{path} has no classifier: port it with include_top=False (--no_top), and put one of "
            "your own on top"
        )
    have = len(stored["predictions"][1])
    if classes not in (None, have):
        raise ValueError(
            f"{path} has {have} classes, and classes={classes} was asked for: port it with its own "
            "(classes=None), or without (include_top=False, --no_top) and a new one on top"
        )
    return have


def _compare(row, path, name, resolved, variant, stored, network):
    if row.outputs is None:
        return (), f"{row.name} is not a package that can be run here"
    images = random_images(variant.image_size)
    try:
        theirs = row.outputs(path, name, resolved, variant, stored, images)
    except NotRunnableError as error:
        return (), str(error)
    ours = of_keras(network, resolved, images)
    return tuple(
        Difference(
            place, float(abs(theirs[place]).max()), float(abs(ours[place] - theirs[place]).max())
        )
        for place in ours
    ), ""


def _notes(resolved, prepared):
    n = resolved.normalization
    numbers = (", ".join(f"{x:g}" for x in values) for values in (n.mean, n.std))
    return (
        f"batch-norm epsilon {resolved.bn_epsilon:g}, {resolved.padding} padding, "
        "normalisation (pixels - [{}]) / [{}]".format(*numbers),
        f"images: {prepared}",
    )
