import pytest

from tpu_train.search.results_cache import ResultsCache
from tpu_train.search.trial_record import COMPLETE, TrialRecord

RECORD = TrialRecord(0, COMPLETE, 0.4, accuracies={1: 0.3, 2: 0.5}, step_time=7.0, blocks="r1")


def test_a_result_is_found_by_network_and_training(tmp_path):
    cache = ResultsCache(str(tmp_path), {"recipe": 1, "sampler": "tpe"}, "none")
    assert cache.read("r1") == {}
    cache.write("r1", RECORD)
    expected = {"accuracies": {1: 0.3, 2: 0.5}, "step_time": 7.0}
    assert cache.read("r1") == expected
    assert cache.read("r2") == {}
    other_sampler = ResultsCache(str(tmp_path), {"recipe": 1, "sampler": "random"}, "none")
    assert other_sampler.read("r1") == expected
    for identity, device in (({"recipe": 2}, "none"), ({"recipe": 1}, "a processor")):
        assert ResultsCache(str(tmp_path), identity, device).read("r1") == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"accuracies": [], "step_time": 1}', '{"accuracies": {"x": 1}}'],
)
def test_a_damaged_result_counts_as_none(content, tmp_path):
    cache = ResultsCache(str(tmp_path), {}, "none")
    cache.write("r1", RECORD)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert cache.read("r1") == {}
