"""``effnet explain``: a picture of where in an image a network's answer comes from."""

import os

import numpy as np

from keras_effnet.cli.predict import add_model, contract_of, open_model
from keras_effnet.image_preprocessing import load_image, preprocess
from keras_effnet.labels import decode_predictions
from keras_effnet.suggestions import unknown_name

METHODS = ("grad-cam", "occlusion")


def add_arguments(parser):
    """The flags of the command."""
    parser.add_argument("image", help="an image file")
    add_model(parser)
    parser.add_argument("--out", default="explain.png", help="the picture (default: explain.png)")
    parser.add_argument(
        "--class",
        dest="class_name",
        help="what to look for: a class's number or name (default: what the network sees)",
    )
    parser.add_argument(
        "--method",
        default="grad-cam",
        help="grad-cam (by gradients) or occlusion (by covering parts: 170 times the work)",
    )
    parser.add_argument("--layer", help="of grad-cam (default: the last that is fine enough)")
    parser.add_argument("--maps", metavar="LAYER", help="show this layer's feature maps instead")


def run(options):
    """Writes the picture and says what is on it; ``ValueError`` for what cannot work."""
    if options.method not in METHODS:
        raise ValueError(unknown_name("method", options.method, METHODS))
    if options.layer and options.method == "occlusion":
        raise ValueError("--layer is grad-cam's: occlusion looks at no layer")
    folder = os.path.dirname(options.out) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"--out={options.out}: {folder} is no folder")
    if not options.out.lower().endswith((".png", ".jpg", ".jpeg")):
        raise ValueError(f"--out={options.out} is no picture: end it in .png or .jpg")
    image = load_image(options.image)  # before the slow part
    model, names = open_model(options.model, options.weights, options.labels)
    image = preprocess(image, contract_of(model))

    from PIL import Image

    from keras_effnet.saliency import feature_maps, grad_cam, occlusion, overlay

    if options.maps:
        picture, said = feature_maps(model, image, options.maps), f"feature maps of {options.maps}"
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
        said = f"image and {options.method} for {names[index]} ({scores[0, index]:.3f})"
        if not heat.any():
            said += "; nothing in the image speaks for that class"
    zoom = max(1, 448 // picture.shape[0])  # a small image is seen in its pixels
    Image.fromarray(picture.repeat(zoom, 0).repeat(zoom, 1)).save(options.out)
    print(f"{options.out}: {said}")


def _class(given, names):
    """The number of a class given as a number or a name."""
    if given in names:
        return names.index(given)
    if given.isdigit() and int(given) < len(names):
        return int(given)
    if len(names) > 50:
        raise ValueError(
            f"{unknown_name('class', given, names).split(' Known: ')[0]} Or give a number"
        )
    raise ValueError(unknown_name("class", given, names))
