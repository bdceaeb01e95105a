import pytest

from keras_effnet.compound_space import CompoundSpace, size_in_trial
from keras_effnet.network_plan import plan
from keras_effnet.scaling import PAPER, scale, search
from keras_effnet.search_space import SPACES
from keras_effnet.space_lookup import find_space
from keras_effnet.variant_file import write_variant
from keras_effnet.variants import VARIANTS

B0 = find_space("compound:efficientnet-b0")


def _network(variant):
    p = plan(variant)
    return p.blocks, p.stem_filters, p.head_filters, p.image_size


def test_the_points_are_the_networks_of_the_grid_search():
    rows = search("efficientnet-b0", lambda variant: 1.0)
    points = [B0.point(point) for point in B0.points()]
    assert len({_network(v) for v in points}) == len(points) == B0.size()
    assert {_network(v) for v in points} == {_network(row.variant) for row in rows}
    paper = B0.point((PAPER.alpha, PAPER.beta, PAPER.gamma))
    assert _network(paper) == _network(scale("efficientnet-b0", 1))


def test_equal_networks_have_equal_keys_and_image_sizes_differ():
    assert B0.network_key((1.2, 1.1, 1.15)) == B0.network_key((1.25, 1.1, 1.15))
    assert B0.network_key((1.2, 1.1, 1.15)) != B0.network_key((1.2, 1.1, 1.2))


def test_choices_and_their_names_round_trip():
    for space, choices in (
        (B0, (1.2, 1.1, 1.15)),
        (SPACES["small"], SPACES["small"].stages_of(SPACES["small"].base)),
    ):
        named = space.to_dimensions(choices)
        assert list(named) == list(space.dimensions())
        assert all(value in space.dimensions()[name] for name, value in named.items())
        assert space.from_dimensions(named) == choices


def test_the_base_may_be_any_network_a_file_or_a_space(tmp_path, tiny):
    path = tmp_path / "best.json"
    write_variant(path, tiny)
    assert find_space(f"compound:{path}") == CompoundSpace(f"compound:{path}", tiny)
    assert find_space("compound:resnet50").base.name == "resnet50"
    assert find_space("compound:small").base == SPACES["small"].base


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("compound", "Unknown search space 'compound'. Did you mean 'compound:NETWORK'"),
        ("compound:efficientnet-b00", "Unknown model 'efficientnet-b00'. Did you mean"),
        ("compound:", "Unknown model ''"),
        ("compound:no.json", "no.json: cannot read it"),
    ],
)
def test_a_base_that_does_not_exist_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        find_space(name)


def test_trials_have_the_ratio_of_image_sizes_of_the_networks():
    b0 = VARIANTS["efficientnet-b0"]
    assert [size_in_trial(size, b0, scale(b0, 1)) for size in (64, 128, 224)] == [72, 148, 256]
    assert size_in_trial(33, b0, b0) == 33
    assert size_in_trial(32, b0, scale(b0, -1)) == 32
