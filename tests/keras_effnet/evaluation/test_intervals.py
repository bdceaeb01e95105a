import pytest
from scipy import stats

from keras_effnet.evaluation.intervals import wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (97, 100), (9650, 10_000)])
def test_wilson_equals_scipys_interval(hits, count):
    want = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((want.low, want.high))
