from types import SimpleNamespace

import numpy as np
import pytest

from tflite.quantization import mixed_precision, range_search


def _enough(monkeypatch, asked, labels=None):
    """Function from the answers of 200 images, of which the float network gives every one as 0, to
    whether a file that gives them takes no islands.
    """
    monkeypatch.setattr(range_search, "islands", lambda *_: {})
    monkeypatch.setattr(range_search, "ranked_islands", lambda *_, **__: [])
    state = SimpleNamespace(content=b"", ranges={}, content_for=lambda plan: b"")

    def enough(answers):
        unseen = SimpleNamespace(
            images=np.zeros(200), top=np.zeros(200, int), look=lambda product: (0.0, answers)
        )
        monkeypatch.setattr(mixed_precision, "quantize", lambda *_: b"")
        try:
            return (
                mixed_precision.within_budget(asked, unseen, labels, state, "plan", None, 0)[1]
                == ()
            )
        except mixed_precision.BudgetError:
            return False

    return enough


def _answers(other):
    """So many are other than the float network's."""
    return np.arange(200) < other


def test_a_budget_that_is_met_already_takes_no_island(monkeypatch):
    enough = _enough(monkeypatch, mixed_precision.Budget(min_agreement=0.9))

    def slow(*_, **__):
        raise AssertionError("looked at islands")

    monkeypatch.setattr(range_search, "ranked_islands", slow)
    assert enough(_answers(0))


def test_a_budget_that_is_only_just_met_is_met(monkeypatch):
    enough = _enough(monkeypatch, mixed_precision.Budget(min_agreement=0.9))
    assert enough(_answers(20))
    assert not enough(_answers(21))


def test_points_lost_are_counted(monkeypatch):
    enough = _enough(monkeypatch, mixed_precision.Budget(max_drop=2.0), labels=np.zeros(200, int))
    assert enough(_answers(4))
    assert not enough(_answers(5))


def test_both_are_met_where_both_are_asked(monkeypatch):
    asked = mixed_precision.Budget(max_drop=2.0, min_agreement=0.9)
    enough = _enough(monkeypatch, asked, labels=np.ones(200, int))  # what is other is right
    assert enough(_answers(20))
    assert not enough(_answers(21))


def test_a_budget_out_of_reach_says_the_best_that_was_found(monkeypatch):
    monkeypatch.setattr(range_search, "islands", lambda *_: {})
    monkeypatch.setattr(range_search, "ranked_islands", lambda *_, **__: [])
    monkeypatch.setattr(mixed_precision, "quantize", lambda *_: b"")
    unseen = SimpleNamespace(
        images=np.zeros(200), top=np.zeros(200, int), look=lambda product: (0.0, _answers(30))
    )
    state = SimpleNamespace(content=b"", ranges={}, content_for=lambda plan: b"")
    asked = mixed_precision.Budget(min_agreement=0.9)
    said = r"at least 90.00% .* on 200 held-out images; the best found: 85.00% agreement\."
    with pytest.raises(mixed_precision.BudgetError, match=said):
        mixed_precision.within_budget(asked, unseen, None, state, "plan", None, 0)
