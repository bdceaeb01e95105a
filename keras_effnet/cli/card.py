"""``effnet card``: a model card for the Hugging Face Hub, of a trained or converted model."""

import os

from keras_effnet.model_card.card import Publication, make_keras_card, make_tflite_card
from keras_effnet.model_card.output_files import check_card, default_path, write_card


def add_arguments(parser):
    """The flags of the command."""
    group = parser.add_group("model", f"{parser.prog} --model=run1/model.keras")
    group.add_argument(
        "--model",
        required=True,
        help="model.keras in the work directory of its training, or a .tflite of effnet-tflite",
    )
    group.add_argument(
        "--evaluation",
        action="append",
        help="JSON file of effnet evaluate for this model; may be repeated (default: "
        "evaluation.json and test.json beside a .keras file)",
    )
    group.add_argument(
        "--workdir", help="work directory of the training of the model that a .tflite is made from"
    )
    group = parser.add_group(
        "publication",
        f"{parser.prog} --model=run1/model.keras --license=apache-2.0 --out=README.md",
    )
    group.add_argument(
        "--license",
        help="license identifier of the hub, e.g. apache-2.0 (default: fill it in later)",
    )
    group.add_argument(
        "--datasets", help="names of the training data on the hub, separated by commas"
    )
    group.add_argument(
        "--out",
        help="Markdown file, e.g. README.md; the JSON is written beside it (default: model_card.md "
        "beside a .keras file, NAME.tflite.card.md beside a .tflite)",
    )


def run(options):
    """Writes the card; ``ValueError`` for bad input."""
    model = options.model
    if not model.endswith((".keras", ".tflite")):
        raise ValueError(f"--model={model} is not a .keras or .tflite file")
    if not os.path.isfile(model):
        raise ValueError(f"--model={model} does not exist")
    evaluations = options.evaluation
    out = options.out or default_path(model)
    beside = {"--model": model, "the report": f"{model}.json"}
    for i, path in enumerate(evaluations or ()):
        beside[f"--evaluation ({i + 1})" if i else "--evaluation"] = path
    check_card(out, beside)
    publication = Publication(_given("license", options.license), _datasets(options.datasets))
    if model.endswith(".tflite"):
        card = make_tflite_card(model, evaluations or (), publication, options.workdir)
    elif options.workdir is not None:
        raise ValueError(
            f"--workdir={options.workdir} is for a .tflite: {model} is in its work directory"
        )
    else:
        card = make_keras_card(model, evaluations, publication)
    for path in write_card(card, out):
        print(f"wrote {path}")
    if publication.license is None:
        print("the license is to be filled in: give --license")


def _given(flag, value):
    if value is not None and not value.strip():
        raise ValueError(f"--{flag} is empty: leave it out, or give a value")
    return value


def _datasets(text):
    if text is None:
        return ()
    names = tuple(name.strip() for name in _given("datasets", text).split(","))
    if not all(names):
        raise ValueError(f"--datasets={text} has an empty name")
    return names
