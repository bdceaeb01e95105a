"""Hooks of the documentation site: pages that are generated from the code, and links out of docs/.

MkDocs loads this file (`hooks` in mkdocs.yml). The pages are text made of the commands' own help
and of the tables, so they cannot differ from what the code does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import mkdocs.structure.files

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = "https://github.com/keras-effnet/keras_effnet/blob/main/"


def on_files(files, config):
    """Adds the generated pages."""
    for name, make in PAGES.items():
        file = mkdocs.structure.files.File.generated(config, name, content=make())
        files.append(file)
    return files


def on_page_markdown(markdown, page, **_):
    """Links to files outside docs/ lead to the repository."""
    depth = page.file.src_uri.count("/")
    outside = re.compile(r"\]\(" + r"\.\./" * (depth + 1) + r"([\w./-]+)\)")
    return outside.sub(rf"]({SOURCE}\1)", markdown)


def _help(module, *words):
    """The help text of a command, which has 80 columns."""
    program = f"import sys; from {module} import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=True,
    )
    return done.stdout.strip()


def _exit_statuses():
    """(number, meaning) of the exit statuses that every help text ends with."""
    from keras_effnet.arguments import EXIT_STATUS

    return [line.split(maxsplit=1) for line in EXIT_STATUS.splitlines()[1:]]


def _commands_page():
    from keras_effnet.arguments import EXIT_STATUS
    from keras_effnet.cli.commands import COMMANDS as EFFNET
    from tpu_train.cli import COMMANDS as TRAIN

    parts = [
        "# Commands\n",
        "Each text is the output of the command with `--help`. Flags may be written with hyphens "
        "or underscores, and with `=` or a space before their value. "
        "[Tab completion](../installation.md#tab-completion) knows all of them.\n",
        "## Exit statuses\n",
        "| status | of all commands |\n|---|---|",
        *(f"| {number} | {meaning} |" for number, meaning in _exit_statuses()),
        "",
    ]
    for program, module, commands in (
        ("effnet", "keras_effnet.cli", ("", *EFFNET)),
        ("effnet-train", "tpu_train.cli", ("", *TRAIN)),
        ("effnet-tflite", "tflite.cli", ("", "report", "compare")),
    ):
        parts.append(f"## {program}\n")
        for command in commands:
            title = f"{program} {command}".strip()
            parts.append(f"### `{title}`\n" if command else "")
            text = _help(module, *command.split()).replace(EXIT_STATUS, "").rstrip()
            parts.append(f"```text\n{text}\n```\n")
    return "\n".join(parts)


def _recipes_page():
    from tpu_train.recipes import phases, schema
    from tpu_train.recipes.table import RECIPES

    parts = [
        "# Recipes\n",
        "Every recipe with the source of its numbers. `effnet-train --recipe=NAME --show` prints "
        "all settings and phases; [the guide](../recipes.md) explains them.\n",
        "| recipe | model | epochs | phases | image size | source |",
        "|---|---|---|---|---|---|",
    ]
    for name, recipe in RECIPES.items():
        sizes = f"{recipe.image_size_first} to {recipe.image_size_last}"
        if recipe.image_size_first == recipe.image_size_last:
            sizes = str(recipe.image_size_last)
        parts.append(
            f"| `{name}` | {recipe.model} | {recipe.epochs:g} | {recipe.phases} | {sizes} | "
            f"{recipe.source} |"
        )
    example = RECIPES["efficientnetv2-s-paper"]
    parts += [
        "\n## Settings\n",
        "Each is a flag of `effnet-train`. The values are those of `efficientnetv2-s-paper`.\n",
        f"```text\n{schema.show(example)}\n```\n",
        "Its phases, for 1,281,167 training images:\n",
        f"```text\n{phases.show(phases.make_phases(example, 1281167))}\n```\n",
    ]
    return "\n".join(parts)


def _models_page():
    parts = [
        "# Models and weights\n",
        "## effnet models\n",
        f"```text\n{_output('models')}\n```\n",
        "## effnet weights\n",
        f"```text\n{_output('weights')}\n```\n",
    ]
    return "\n".join(parts)


def _output(*words):
    done = subprocess.run(
        [sys.executable, "-m", "keras_effnet.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=True,
    )
    return done.stdout.rstrip()


def _api_page():
    import keras_effnet

    groups = {
        "Models": ("create_model", "EfficientNetV2M", "list_models", "plan", "cost", "scale"),
        "Weights": ("list_weights", "porting.port"),
        "Images": (
            "preprocessing",
            "preprocess",
            "load_image",
            "decode_image",
            "decode_predictions",
        ),
        "Fine-tuning": (
            *("with_new_head", "freeze", "unfreeze", "unfreeze_schedule", "layer_groups"),
            *("layer_rates", "change_image_size"),
        ),
        "Analysis": ("check_model", "features", "feature_table", "export_onnx"),
        "Labels": ("imagenet_classes", "label_map"),
    }
    parts = [
        "# Python API\n",
        "The functions of `keras_effnet`. Arguments beyond those of "
        "keras.applications are keyword-only.\n",
    ]
    for title, names in groups.items():
        parts.append(f"## {title}\n")
        for name in names:
            target = keras_effnet
            for attribute in name.split("."):
                target = getattr(target, attribute)
            parts.append(f"::: {target.__module__}.{target.__name__}\n")
    return "\n".join(parts)


PAGES = {
    "reference/commands.md": _commands_page,
    "reference/recipes.md": _recipes_page,
    "reference/models.md": _models_page,
    "reference/api.md": _api_page,
}
