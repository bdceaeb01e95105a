import pytest

pytest.importorskip("optuna")

from keras_effnet.search_space import SPACES
from tpu_train.search.optuna_study import StoredStudy, is_pruned
from tpu_train.search.trial_record import COMPLETE, PRUNED, TrialRecord

SMALL = SPACES["small"]
STAGES = SMALL.stages_of(SMALL.base)


@pytest.mark.parametrize("storage", ["{}/journal.log", "sqlite:///{}/study.db"])
def test_a_study_is_the_same_when_it_is_opened_again(tmp_path, storage):
    storage = storage.format(tmp_path)
    study = StoredStudy(storage, "s", SMALL)
    study.set_attribute("identity", {"space": "small"})
    study.add(STAGES, {"parameters": 7, "sampler_state": {"x:generation": 1}})
    study.report(0, 1, 0.5, 0.4)
    study.report(0, 1, 0.5, 0.4)  # by a worker that continues the trial
    study.note(0, {"seconds": 1.5})
    study.finish(0, COMPLETE, 0.4)
    study.finish(0, COMPLETE, 0.4)
    again = StoredStudy(storage, "s", SMALL)
    assert again.attributes()["identity"] == {"space": "small"}
    assert again.records() == [
        TrialRecord(
            0,
            COMPLETE,
            0.4,
            STAGES,
            parameters=7,
            accuracies={1: 0.5},
            rewards={1: 0.4},
            seconds=1.5,
            sampler_state={"x:generation": 1},
        )
    ]


def test_an_incomplete_last_line_of_a_journal_is_removed(tmp_path):
    path = tmp_path / "journal.log"
    StoredStudy(str(path), "s", SMALL).add(STAGES, {"parameters": 7})
    with open(path, "ab") as file:
        file.write(b'{"op_code":4,"worker_')
    study = StoredStudy(str(path), "s", SMALL)
    study.add(STAGES, {"parameters": 8})
    assert [r.parameters for r in StoredStudy(str(path), "s", SMALL).records()] == [7, 8]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sqlite:////nowhere/study.db", "cannot open the storage sqlite:.*unable to open"),
        ("postgres://me:secret@host/x", r"postgres://me:\*\*\*@host/x.*postgres"),
        ("nothing://x", "cannot open the storage nothing://x"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_clear_error(storage, message):
    with pytest.raises(ValueError, match=message) as error:
        StoredStudy(storage, "s", SMALL)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a journal\n", "line 1 cannot be read"),
        (b"\x00\xff\x80\n", "line 1 cannot be read"),
        (b'{"a": 1}\n', "line 1 cannot be read"),
        (b"[1]\n", "line 1 cannot be read"),
        (b'{"op_code": 0}\n', "an entry cannot be read"),
    ],
)
def test_a_file_that_is_not_a_journal_is_refused(content, message, tmp_path):
    path = tmp_path / "journal.log"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"is not a journal of studies, .* {message}") as error:
        StoredStudy(str(path), "s", SMALL)
    assert "\n" not in str(error.value)


def test_a_journal_that_is_damaged_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "journal.log"
    StoredStudy(str(path), "s", SMALL).add(STAGES, {"parameters": 7})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:20] + b"\n" + b"".join(lines[2:]))
    with pytest.raises(ValueError, match=r"or is damaged: line 2 cannot be read. Restore"):
        StoredStudy(str(path), "s", SMALL)


def test_a_folder_in_the_place_of_the_journal_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a file: delete it"):
        StoredStudy(str(tmp_path), "s", SMALL)


def test_successive_halving_ends_the_worse_half():
    def trial(number, *rewards):
        return TrialRecord(
            number,
            COMPLETE if len(rewards) == 4 else PRUNED,
            rewards[-1],
            STAGES,
            rewards=dict(enumerate(rewards, start=1)),
        )

    history = [trial(0, 0.1, 0.2, 0.3, 0.4), trial(1, 0.3, 0.4, 0.5, 0.6), trial(2, 0.2)]

    def pruned(*rewards):
        record = TrialRecord(3, choices=STAGES, rewards=dict(enumerate(rewards, start=1)))
        return is_pruned(SMALL, record, len(rewards), history)

    assert pruned(0.15)
    assert not pruned(0.25)
    assert not pruned(0.35, 0.5)
    assert pruned(0.35, 0.1)
    assert not pruned(0.35, 0.5, 0.0)  # phase 3 is no power of two
