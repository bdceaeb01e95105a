import dataclasses

import pytest

pytest.importorskip("optuna")

from tests.tpu_train.search.fake_search import CLASSES, LABELS, make_request, search
from tpu_train.search.study_opening import open_storage, open_study


def _open(request, labels=LABELS):
    open_study(request, open_storage(request), CLASSES, labels)


def test_a_study_without_its_description_is_the_one_of_its_journal(tmp_path):
    request = make_request(tmp_path, trials=1)
    search(request)
    description = tmp_path / "study.json"
    before = description.read_text()
    description.unlink()
    assert len(search(dataclasses.replace(request, trials=2))) == 2
    assert description.read_text() == before


@pytest.mark.parametrize("changes", [{"study": "other"}, {"storage": "sqlite:///{}/x.db"}])
def test_a_workdir_does_not_get_a_second_study(tmp_path, changes):
    request = make_request(tmp_path / "w")
    _open(request)
    changes = {name: value.format(tmp_path) for name, value in changes.items()}
    with pytest.raises(ValueError, match="the study 'search' in another storage, the file in the"):
        _open(dataclasses.replace(request, **changes))
    _open(request)


def test_a_study_of_another_workdir_is_refused(tmp_path):
    storage = f"sqlite:///{tmp_path}/x.db"
    _open(dataclasses.replace(make_request(tmp_path / "a"), storage=storage))
    with pytest.raises(ValueError, match="belongs to another workdir than"):
        _open(dataclasses.replace(make_request(tmp_path / "b"), storage=storage))


@pytest.mark.parametrize("name", ["best.json", "report.html", "recipe.json"])
def test_files_of_something_else_are_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"has files of something else \\({name}\\): choose"):
        _open(make_request(tmp_path))
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "journal.log").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not complete JSON"),
        ("[]", "does not describe a study"),
        ('{"id": 1, "identity": 3}', "does not describe a study"),
    ],
)
def test_a_damaged_description_is_one_clear_error(content, message, tmp_path):
    request = make_request(tmp_path)
    _open(request)
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        _open(request)


def test_other_settings_and_data_are_named(tmp_path):
    _open(make_request(tmp_path))
    for changes, message in (
        ({"step_time": "measured"}, r"step_time 'flops', now 'measured'\)"),
        ({"phases": 2}, r"recipe.phases 1, now 2\)"),
    ):
        with pytest.raises(ValueError, match=f"has another study \\({message}: continue it"):
            _open(make_request(tmp_path, **changes))
    request = make_request(tmp_path)
    compound = dataclasses.replace(request.settings, space="compound:small")
    with pytest.raises(ValueError, match=r"study \(space 'small', now 'compound:small'\)"):
        _open(dataclasses.replace(request, settings=compound))
    with pytest.raises(ValueError, match=r"data.training_images 100, now 99"):
        _open(request, LABELS[1:])
