import pytest

from tpu_train.tpu_compile.batch_search import largest_batch


@pytest.mark.parametrize("limit", [1, 3, 7, 20, 100, 333, 1700, 10_000])
def test_the_limit_is_enclosed_in_few_compilations(compiled, limit):
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        return compiled(batch, 2**28 + batch * 2**24, fits=batch <= limit)

    low, high = largest_batch(compile_batch, 2**28 + limit * 2**24, known=[compile_batch(512)])
    assert low <= limit
    assert high > limit or high == 0
    assert (high == 0) == (limit > 4096)
    assert not high or high - low <= max(8, high // 8)
    assert len(tried) == len(set(tried)) <= 6
    assert low in (0, *tried)


def test_the_search_copes_with_a_compiler_that_saves_memory_near_the_limit(compiled):
    limit = 100 * 2**20

    def compile_batch(batch):  # its byte count fits up to 100; it accepts up to 150
        return compiled(batch, min(batch * 2**20, limit), fits=batch <= 150)

    low, high = largest_batch(compile_batch, limit)
    assert low <= 150 < high
    assert high - low <= high // 8


def test_only_the_given_batches_are_compiled(compiled):
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        return compiled(batch, batch * 2**20, fits=batch <= 100)

    assert largest_batch(compile_batch, 100 * 2**20, range(32, 512, 32)) == (96, 128)
    assert all(batch % 32 == 0 for batch in tried)
