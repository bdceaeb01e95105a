"""``effnet explain``: a picture of the image regions that a prediction is based on."""

import os

import numpy as np

from keras_effnet.atomic_write import check_new, replacing
from keras_effnet.cli.predict import (
    add_ignore_exif,
    add_model,
    open_options_model,
    probabilities_of,
)
from keras_effnet.image_classifier import of_keras_model
from keras_effnet.image_decoding import is_picture_of, load_image
from keras_effnet.label_file import class_index
from keras_effnet.labels import class_names_for, decode_predictions
from keras_effnet.model_input import image_input
from keras_effnet.suggestions import unknown_name

METHODS = ("grad-cam", "occlusion")
_MARK = "effnet explain"  # in the file: only such pictures are overwritten


def add_arguments(parser):
    """The flags of the command."""
    group = parser.add_group(
        "image", f"{parser.prog} cat.jpg --model=efficientnetv2-s --out=cat-explained.png"
    )
    group.add_argument("image", help="an image file")
    add_ignore_exif(group)
    group.add_argument("--out", default="explain.png", help="output file")
    group = parser.add_group(
        "what to show", f"{parser.prog} cat.jpg --model=efficientnetv2-s --class=tabby"
    )
    group.add_argument(
        "--class",
        dest="class_name",
        help="the class to explain: its index or name (default: the predicted class)",
    )
    group.add_argument(
        "--method",
        default="grad-cam",
        help="grad-cam (uses gradients) or occlusion (covers patches; 170 times slower)",
    )
    group.add_argument(
        "--layer", help="layer for grad-cam (default: the last of at least 4 x 4 pixels)"
    )
    group.add_argument("--maps", metavar="LAYER", help="show this layer's feature maps instead")
    add_model(parser, f"{parser.prog} cat.jpg --model=run1/model.keras")


def run(options):
    """Writes the picture and prints a description; ``ValueError`` for invalid options."""
    if options.method not in METHODS:
        raise ValueError(unknown_name("method", options.method, METHODS))
    if options.layer and options.method == "occlusion":
        raise ValueError("--layer applies to grad-cam only: occlusion uses no layer")
    folder = os.path.dirname(options.out) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"--out={options.out}: {folder} is not a folder")
    if not options.out.lower().endswith((".png", ".jpg", ".jpeg")):
        raise ValueError(f"--out={options.out} is not an image file: use .png or .jpg")
    _check_replaceable(options)
    image = load_image(options.image, ignore_exif=options.ignore_exif)  # before the slow part
    model, names = open_options_model(options)
    prepared_as = image_input(model)
    image = prepared_as.prepare(image)
    pixels = prepared_as.for_model(image)
    image = image.repeat(3 // image.shape[-1], -1)  # grey as RGB

    from keras_effnet.saliency import feature_maps, grad_cam, occlusion, overlay

    if options.maps:
        picture = feature_maps(model, pixels, options.maps)
        description = f"feature maps of {options.maps}"
    else:
        classifier = of_keras_model(model, names)
        batch = pixels[None].astype("float32")
        scores = probabilities_of(options.model, model, classifier, batch)
        names = names or class_names_for(scores.shape[-1], options.label_format or "names")
        best = decode_predictions(scores, 1, names)[0][0][0]
        index = _class(options.class_name, names) if options.class_name else best
        output = index
        if model.output_shape[-1] == 1:  # the score of the second of two classes
            if options.class_name and index == 0:
                raise ValueError(
                    f"{options.model} has one unit, which is the score of {names[1]}: only the "
                    f"evidence for that class can be shown, not for {names[0]}"
                )
            index, output = 1, 0
        if options.method == "grad-cam":
            heat = grad_cam(model, pixels, output, options.layer)
        else:
            heat = occlusion(model, pixels, output)
        picture = np.concatenate([image, overlay(image, heat)], axis=1)
        description = f"image and {options.method} for {names[index]} ({scores[0, index]:.3f})"
        if not heat.any():
            description += "; no evidence for that class in the image"
    zoom = max(1, 448 // picture.shape[0])  # enlarges small images
    _save(picture.repeat(zoom, 0).repeat(zoom, 1), options.out)
    print(f"{options.out}: {description}")


def _check_replaceable(options):
    """``ValueError`` if --out is an input, or a picture that this command did not write."""
    inputs = {"IMAGE": options.image, "--model": options.model, "--weights": options.weights}
    path = check_new(options.out, {**inputs, "--labels": options.labels})
    if os.path.lexists(path) and not is_picture_of(path, _MARK):
        raise ValueError(
            f"--out={options.out} exists and is not a picture of effnet explain: it is not "
            "overwritten; give another name or delete it"
        )


def _save(picture, path):
    """Writes a picture that states which command wrote it."""
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("Software", _MARK)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, pnginfo=text, comment=_MARK)


def _class(given, names):
    """The index of a class given by its index or name."""
    if given in names:
        try:
            return class_index(given, names)
        except ValueError as error:  # several classes have the name
            raise ValueError(f"{error}, or give an index") from error
    if given.isdigit() and int(given) < len(names):
        return int(given)
    if len(names) > 50:
        raise ValueError(
            f"{unknown_name('class', given, names).split(' Known: ')[0]} Or give its index"
        )
    raise ValueError(unknown_name("class", given, names))
