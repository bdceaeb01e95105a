import itertools

import pytest

from keras_effnet.compound_space import CompoundSpace
from keras_effnet.model_cost import cost
from keras_effnet.search_space import SPACES, space_around
from tpu_train.search.limits import LimitedSpace, PointCost, limit_space


def _limited(space, **limits):
    return LimitedSpace(space, image_size=32, classes=10, **limits)


@pytest.mark.parametrize("name", ["small", "efficientnetv2-b0"])
def test_the_cost_of_a_point_is_that_of_its_network(name):
    space, limited = SPACES[name], _limited(SPACES[name])
    for seed in range(5):
        stages = limited.draw(str(seed))
        network = cost(space.point(stages), image_size=32, classes=10)
        point = limited.cost(stages)
        assert (point.parameters, point.flops) == (network.parameters, network.macs)


def test_draws_are_under_both_limits():
    limited = _limited(SPACES["small"], max_parameters=60_000, max_flops=1_500_000)
    draws = [limited.draw(str(seed)) for seed in range(50)]
    assert all(limited.allows(stages) for stages in draws)
    assert len(set(draws)) > 20
    assert draws[0] == limited.draw("0")


def test_compound_points_are_counted_at_their_image_size(tiny):
    space = CompoundSpace("compound:tiny", tiny)
    limited = limit_space(space, image_size=64, classes=10)
    sizes = set()
    for point in space.points():
        variant = space.point(point)
        sizes.add(2 * variant.image_size)
        counted = cost(variant, image_size=2 * variant.image_size, classes=10)
        assert limited.cost(point) == PointCost(counted.parameters, counted.macs)
    assert min(sizes) == 64 < max(sizes)
    assert limited.base_parameters() == cost(tiny, image_size=64, classes=10).parameters
    most = sorted(limited.cost(point).flops for point in space.points())[4]
    few = limit_space(space, image_size=64, classes=10, max_flops=most)
    assert few.count() == 5
    with pytest.raises(ValueError, match=r"compound:tiny has no point with .* the smallest has"):
        limit_space(space, image_size=64, classes=10, max_flops=1000)


def test_a_space_without_a_point_under_the_limits_is_refused(tiny):
    space = space_around(tiny)
    free = _limited(space)
    points = itertools.product(*(stage.all() for stage in space.choices))
    least = min(free.cost(stages).parameters for stages in points)
    _limited(space, max_parameters=least)
    with pytest.raises(ValueError, match=f"no point with at most .* smallest has {least:,} para"):
        _limited(space, max_parameters=least - 1)
