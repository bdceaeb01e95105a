"""``effnet explain``: a picture of the image regions that a prediction is based on."""

import os

import numpy as np

from keras_effnet.cli.predict import add_model, open_model, preprocessing_of
from keras_effnet.image_preprocessing import load_image, preprocess
from keras_effnet.labels import decode_predictions
from keras_effnet.suggestions import unknown_name

METHODS = ("grad-cam", "occlusion")


def add_arguments(parser):
    """The flags of the command."""
    parser.add_argument("image", help="an image file")
    add_model(parser)
    parser.add_argument("--out", default="explain.png", help="output file (default: explain.png)")
    parser.add_argument(
        "--class",
        dest="class_name",
        help="the class to explain: its index or name (default: the predicted class)",
    )
    parser.add_argument(
        "--method",
        default="grad-cam",
        help="grad-cam (uses gradients) or occlusion (covers patches; 170 times slower)",
    )
    parser.add_argument(
        "--layer", help="layer for grad-cam (default: the last of at least 4 x 4 pixels)"
    )
    parser.add_argument("--maps", metavar="LAYER", help="show this layer's feature maps instead")


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
    image = load_image(options.image, ignore_exif=options.ignore_exif)  # before the slow part
    model, names = open_model(options.model, options.weights, options.labels)
    image = preprocess(image, preprocessing_of(model))

    from PIL import Image

    from keras_effnet.saliency import feature_maps, grad_cam, occlusion, overlay

    if options.maps:
        picture = feature_maps(model, image, options.maps)
        description = f"feature maps of {options.maps}"
    else:
        scores = np.asarray(model.predict(image[None].astype("float32"), verbose=0))
        ranked = decode_predictions(scores, scores.shape[-1], names)[0]
        names = [name for _, name, _ in sorted(ranked)]
        index = _class(options.class_name, names) if options.class_name else ranked[0][0]
        if options.method == "grad-cam":
            heat = grad_cam(model, image, index, options.layer)
        else:
            heat = occlusion(model, image, index)
        picture = np.concatenate([image, overlay(image, heat)], axis=1)
        description = f"image and {options.method} for {names[index]} ({scores[0, index]:.3f})"
        if not heat.any():
            description += "; no evidence for that class in the image"
    zoom = max(1, 448 // picture.shape[0])  # enlarges small images
    Image.fromarray(picture.repeat(zoom, 0).repeat(zoom, 1)).save(options.out)
    print(f"{options.out}: {description}")


def _class(given, names):
    """The index of a class given by its index or name."""
    if given in names:
        return names.index(given)
    if given.isdigit() and int(given) < len(names):
        return int(given)
    if len(names) > 50:
        raise ValueError(
            f"{unknown_name('class', given, names).split(' Known: ')[0]} Or give its index"
        )
    raise ValueError(unknown_name("class", given, names))
