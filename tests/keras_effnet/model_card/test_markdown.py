import pytest
import yaml

from keras_effnet.model_card.card import Publication, make_keras_card
from keras_effnet.model_card.front_matter import format_front_matter, format_yaml_text
from keras_effnet.model_card.markdown import escape, render_markdown


@pytest.fixture(scope="module")
def card(trained):
    return make_keras_card(trained / "model.keras")


def _front_matter(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_what_the_hub_reads(card):
    front, _ = _front_matter(render_markdown(card))
    assert front["license"] == "other"
    assert front["library_name"] == "keras"
    assert front["pipeline_tag"] == "image-classification"
    assert "tiny" in front["tags"]
    assert "datasets" not in front
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert (model["name"], result["task"]["type"]) == ("tiny", "image-classification")
    assert result["dataset"] == {"type": "photos validation", "name": "photos validation"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values["Top-1 accuracy"] == pytest.approx(100 / 104, abs=1e-6)
    assert values["Macro recall"] == pytest.approx(2 / 3, abs=1e-6)


def test_given_license_and_data_sets_are_in_the_front_matter(trained):
    published = Publication("apache-2.0", ("cifar10",))
    front, body = _front_matter(
        render_markdown(make_keras_card(trained / "model.keras", None, published))
    )
    assert (front["license"], front["datasets"]) == ("apache-2.0", ["cifar10"])
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "cifar10"
    assert "To be filled in" not in body


def test_the_hub_parses_the_card(card):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(render_markdown(card)).data
    assert data.library_name == "keras"
    accuracy = next(r for r in data.eval_results if r.metric_name == "Top-1 accuracy")
    assert accuracy.metric_value == pytest.approx(100 / 104, abs=1e-6)
    assert accuracy.dataset_name == "photos validation"


@pytest.mark.parametrize(
    "text",
    ['a "b" \\ c', "yes", "1e-05", "ü: # [x]", "tab\tline\nend", "\x7f\x85\u2028\ufeff", "😀", ""],
)
def test_every_text_survives_yaml(text):
    assert yaml.safe_load(f"key: {format_yaml_text(text)}")["key"] == text


def test_small_numbers_stay_numbers(card):
    evaluation = card["evaluations"][0]
    metrics = {**evaluation["metrics"], "loss": 1e-5}
    changed = {**card, "evaluations": [{**evaluation, "metrics": metrics}]}
    front = yaml.safe_load(format_front_matter(changed).strip("-\n"))
    assert front["model-index"][0]["results"][0]["metrics"][-1]["value"] == 1e-5


def test_the_body_has_every_section_and_the_class_table(card):
    body = render_markdown(card)
    sections = [line[3:] for line in body.splitlines() if line.startswith("## ")]
    assert sections == [
        "Intended use", "Limits", "Metrics", "Preprocessing", "Use", "Training data",
        "Training recipe", "Per-class metrics", "License", "File",
    ]  # fmt: skip
    assert "| top-1 accuracy | 96.15% | 90.53% to 98.49% |" in body
    assert r"| &lt;cat> \| dog | 60 | 93.75% | 100.00% |" in body
    assert "**To be filled in.**" in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in rows)


def test_names_cannot_change_the_page():
    assert escape("a\n# b") == "a # b"
    assert escape("[x](y)`*_|~") == r"\[x\](y)\`\*\_\|\~"
    assert escape("\ud800") == "\ufffd"


@pytest.mark.slow
def test_the_python_of_a_card_runs(trained, card, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(trained)
    Image.effect_noise((50, 40), 80).convert("RGB").save("photo.jpg")
    code = render_markdown(card).split("```python\n")[1].split("```")[0]
    exec(compile(code, "card", "exec"), {})
    name, score = capsys.readouterr().out.rsplit(" ", 1)
    assert name in card["model"]["class_names"]
    assert 0 < float(score) <= 1
