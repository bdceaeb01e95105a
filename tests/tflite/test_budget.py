from types import SimpleNamespace

import numpy as np
import pytest

from tflite import budget, search


def _enough(monkeypatch, asked, labels=None):
    """Function from the answers of 200 images, of which the float network gives every one as 0, to
    whether a file that gives them takes no islands.
    """
    monkeypatch.setattr(search, "islands", lambda *_: {})
    monkeypatch.setattr(search, "ranked_islands", lambda *_, **__: [])
    state = SimpleNamespace(content=b"", ranges={})

    def enough(answers, spare=True):
        everything = SimpleNamespace(
            images=np.zeros(200), top=np.zeros(200, int), look=lambda product: (0.0, answers)
        )
        tries = []
        monkeypatch.setattr(budget, "quantize", lambda *_: tries.append(1))
        try:
            budget.within_budget(asked, everything, labels, state, None, None, 0)
        except budget.BudgetError:
            return False
        return len(tries) == 1 or not spare  # else only with nothing to spare

    return enough


def _answers(seen=0, unseen=0):
    """Of the first 100 images, which ranges are made from, and of the others, so many are other."""
    top = np.zeros(200, int)
    top[:seen] = top[100 : 100 + unseen] = 1
    return top


def test_a_budget_is_met_with_a_standard_error_to_spare(monkeypatch):
    enough = _enough(monkeypatch, budget.Budget(min_agreement=0.9))
    assert enough(_answers(seen=15))  # 92.5 %: 90 % and 2.1 % of it
    assert not enough(_answers(seen=17))


def test_a_budget_is_met_on_the_images_that_ranges_do_not_know(monkeypatch):
    enough = _enough(monkeypatch, budget.Budget(min_agreement=0.9))
    assert enough(_answers(unseen=7))
    assert not enough(_answers(unseen=8))  # 96 % of all, 92 % of them


def test_a_budget_that_is_only_just_met_is_met_all_the_same(monkeypatch):
    enough = _enough(monkeypatch, budget.Budget(min_agreement=0.9))
    assert enough(_answers(seen=20), spare=False)
    assert not enough(_answers(seen=21), spare=False)


@pytest.mark.parametrize(("seen", "unseen", "met"), [(4, 0, True), (6, 0, False), (0, 3, False)])
def test_points_lost_are_counted_on_both(monkeypatch, seen, unseen, met):
    enough = _enough(monkeypatch, budget.Budget(max_drop=2.0), labels=np.zeros(200, int))
    assert enough(_answers(seen, unseen)) == met
