"""Search spaces: points, draws, neighbors, and the published networks as points."""

import collections

import pytest

from keras_effnet.network_plan import plan
from keras_effnet.search_space import SPACES, canonical_form, unscaled
from keras_effnet.space_lookup import find_space
from keras_effnet.variants import V2, VARIANTS

PUBLISHED = [name for name, variant in VARIANTS.items() if variant.family == V2]
SMALL = SPACES["small"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_is_a_point_of_its_space(name):
    space = SPACES[name]
    point = space.point(space.stages_of(VARIANTS[name]))
    assert plan(point).blocks == plan(name).blocks
    assert plan(point).head_filters == plan(name).head_filters
    assert canonical_form(point) == canonical_form(VARIANTS[name])


def test_b0_and_its_deeper_sibling_share_no_canonical_form():
    forms = {canonical_form(VARIANTS[name]) for name in PUBLISHED}
    assert len(forms) == len(PUBLISHED)


def test_unscaled_keeps_blocks_and_head():
    for variant in VARIANTS.values():
        assert plan(unscaled(variant)).blocks == plan(variant).blocks


def test_size_counts_the_distinct_points_of_a_space():
    seen = {SMALL.sample(seed).name for seed in range(300)}
    assert SMALL.size() == 24 * 24 * 36 * 36
    assert len(seen) > 295  # distinct names for distinct networks


def test_sampling_depends_only_on_seed_and_space():
    assert SMALL.sample("a/3").name == "small-7b932651"
    assert SMALL.sample("a/4").name != SMALL.sample("a/3").name


def test_sampling_is_uniform_over_the_choices():
    drawn = collections.Counter(SMALL.sample(seed).stages[0].kernel_size for seed in range(600))
    assert abs(drawn[3] - 300) < 75  # six standard deviations


def test_a_sample_of_every_space_is_one_of_its_points():
    for space in SPACES.values():
        point = space.sample(0)
        assert space.point(space.stages_of(point)) == point


def test_neighbors_differ_in_one_choice_and_include_every_one():
    point = SMALL.sample(1)
    neighbors = SMALL.neighbors(point)
    expected = sum(
        len(c.ops) + len(c.kernel_sizes) + len(c.expand_ratios) + len(c.repeats) - 4
        for c in SMALL.choices
    )
    assert len(neighbors) == len({n.name for n in neighbors}) == expected
    for neighbor in neighbors:
        pairs = zip(SMALL.stages_of(point), SMALL.stages_of(neighbor))
        assert sum(a != b for one, two in pairs for a, b in zip(one, two)) == 1


def test_a_mutation_is_a_neighbor_and_repeatable():
    point = SMALL.sample(1)
    mutated = SMALL.mutate(point, 5)
    assert mutated in SMALL.neighbors(point)
    assert mutated == SMALL.mutate(point, 5)
    assert len({SMALL.mutate(point, seed).name for seed in range(20)}) > 5


def test_squeeze_and_excitation_follows_the_op():
    for seed in range(20):
        for stage in SMALL.sample(seed).stages:
            assert stage.se_ratio == (0.25 if stage.op == "mbconv" else 0.0)


def test_a_network_outside_the_space_is_refused():
    with pytest.raises(ValueError, match="has 4 stages, not 6"):
        SMALL.stages_of(VARIANTS["efficientnetv2-b0"])
    with pytest.raises(ValueError, match=r"not a point of the space efficientnetv2-b0: .* blocks"):
        SPACES["efficientnetv2-b0"].stages_of(VARIANTS["efficientnetv2-b2"])
    with pytest.raises(ValueError, match="stage 2 of the space small cannot be"):
        SMALL.point(
            (("fused", 3, 1, 1), ("fused", 7, 1, 1), ("fused", 3, 1, 2), ("fused", 3, 1, 2))
        )


def test_an_unknown_space_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'small'"):
        find_space("smal")
