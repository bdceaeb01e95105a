import dataclasses

import pytest

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan
from keras_effnet.pretrained.registry import default_preprocessing
from keras_effnet.scaling import (
    PAPER,
    PUBLISHED_PHI,
    SIZE_STEP,
    Coefficients,
    compound,
    family,
    scale,
    scale_v2,
    search,
)
from keras_effnet.search_space import unscaled
from keras_effnet.variants import VARIANTS

V1 = [n for n in VARIANTS if n.startswith("efficientnet-") and "lite" not in n]


def test_the_papers_coefficients_about_double_the_cost():
    assert (PAPER.alpha, PAPER.beta, PAPER.gamma) == (1.2, 1.1, 1.15)
    assert PAPER.growth == pytest.approx(1.2 * 1.1**2 * 1.15**2)
    assert 1.9 < PAPER.growth < 2


@pytest.mark.parametrize("name", V1)
def test_published_v1_networks_are_b0_scaled_by_dimension(name):
    v = VARIANTS[name]
    scaled = scale("efficientnet-b0", width=v.width, depth=v.depth, image_size=v.image_size)
    assert plan(scaled).blocks == plan(name).blocks
    assert cost(scaled) == cost(name)


def test_phi_0_is_the_base_with_another_name():
    base = VARIANTS["efficientnetv2-b0"]
    same = scale(base, 0)
    published = {"name": base.name, "top1": base.top1, "evaluation": base.evaluation}
    assert dataclasses.replace(same, **published) == base
    assert default_preprocessing(same) == Preprocessing(224, None, "bilinear")


def test_phi_multiplies_the_bases_factors():
    """B3 is already wider than B0; phi scales from there."""
    v = scale("efficientnet-b3", 1)
    assert v.width == pytest.approx(1.2 * 1.1)
    assert v.depth == pytest.approx(1.4 * 1.2)
    assert v.image_size == 344  # 300 * 1.15 = 345


def test_a_negative_phi_shrinks():
    small = scale("efficientnetv2-s", -2)
    assert cost(small).macs < cost("efficientnetv2-s").macs / 3


@pytest.mark.parametrize("phi", [-1, 0.3, 0.5, 1, 2.5, 7])
def test_image_sizes_are_the_nearest_multiple_of_4(phi):
    size = scale("efficientnet-b0", phi).image_size
    assert size % SIZE_STEP == 0
    assert abs(size - 224 * 1.15**phi) <= SIZE_STEP / 2


def test_published_sizes_are_multiples_of_4_not_all_of_8():
    sizes = {v.image_size for v in VARIANTS.values()}
    assert all(s % 4 == 0 for s in sizes)
    assert any(s % 8 for s in sizes)


def test_rounding_errors_add_no_block():
    """1.1**2 is 1.2100000000000002; a depth that far above a whole number would add a block."""
    v = scale("efficientnet-b0", 2, coefficients=Coefficients(alpha=2**0.5))
    assert v.depth == 2.0
    assert len(plan(v).blocks) == 2 * 16


def test_scaling_lite_keeps_its_ends():
    p = plan(scale("efficientnet-lite0", 3))
    assert (p.stem_filters, p.head_filters) == (32, 1280)


def test_the_default_name_states_the_scaling():
    assert scale("efficientnet-b0", 0.5).name == "efficientnet-b0-phi0.5"
    assert scale("efficientnet-b0", width=1.1).name == "efficientnet-b0-w1.1-d1-r224"
    assert scale("efficientnet-b0", 1, name="mine").name == "mine"


def test_a_scaled_network_has_no_published_accuracy():
    assert scale("efficientnet-b0", 1).top1 is None


@pytest.mark.parametrize(
    ("phi", "by_hand", "message"),
    [
        (None, {}, "neither"),
        (1, {"width": 1.1}, "both"),
        (float("nan"), {}, "phi nan"),
        (True, {}, "phi True"),
        ("1", {}, "phi '1'"),
        (-20, {}, "at least 32 pixels"),
        (None, {"width": 0}, "width 0"),
        (None, {"depth": -1}, "depth -1"),
        (None, {"image_size": 224.5}, "whole number of pixels"),
        (None, {"image_size": 16}, "at least 32 pixels"),
        (1, {"coefficients": Coefficients(beta=0)}, "beta 0"),
    ],
)
def test_invalid_scalings_are_errors(phi, by_hand, message):
    with pytest.raises(ValueError, match=message):
        scale("efficientnet-b0", phi, **by_hand)


def test_an_unknown_base_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'efficientnet-b0'"):
        scale("efficientnet-b00", 1)


@pytest.mark.every_stack
def test_a_scaled_network_is_built(keras, tiny):
    from keras_effnet.constructors import create_model

    v = scale(tiny, 1)
    model = create_model(v, classes=10)
    assert model.input_shape == (None, v.image_size, v.image_size, 3)
    assert model.count_params() == cost(v, classes=10).parameters
    assert model.name == v.name


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.5, 1, 1.7])
def test_a_scaled_b0_is_built_and_called(keras, images, phi):
    from keras_effnet.constructors import create_model

    v = scale("efficientnet-b0", phi)
    model = create_model(v)
    assert model.count_params() == cost(v).parameters
    output = keras.ops.convert_to_numpy(model(images(v.image_size)))
    assert output.shape == (2, 1000)
    assert output.sum(1) == pytest.approx(1, abs=1e-4)


def test_the_family_has_every_published_variant():
    members = family("efficientnet-b0")
    assert [m.published.name for m in members] == list(PUBLISHED_PHI["efficientnet-b0"])
    assert [m.phi for m in members] == [0, 0.5, 1, 2, 3.5, 5, 6, 7, 8]
    for m in members:
        assert m.rule_cost == cost(m.rule)
        assert m.published_cost == cost(m.published)


@pytest.mark.parametrize("base", PUBLISHED_PHI)
def test_published_phi_is_the_nearest_half_step(base):
    """In relative terms. Lite's sizes were limited intentionally, so there only the width."""
    sizes = "lite" not in base

    def distance(phi, published):
        rule = scale(base, phi)
        return abs(rule.width / published.width - 1) + sizes * abs(
            rule.image_size / published.image_size - 1
        )

    for name, phi in PUBLISHED_PHI[base].items():
        if "lite1" in name:
            continue  # width 1.0, as Lite0; only the depth differs
        nearest = min((i / 2 for i in range(20)), key=lambda p: distance(p, VARIANTS[name]))
        assert nearest == phi, name


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("b0", 0),
        ("b1", 0.09),
        ("b2", 0.14),
        ("b3", 0.02),
        ("b4", 0.06),
        ("b5", 0.12),
        ("b6", 0.06),
        ("b7", 0.06),
        ("b8", 0.17),
    ],
)
def test_the_rule_is_close_to_the_published_family(name, tolerance):
    """B2: 260 px where the rule gives 257.6, and 260 halves to odd sizes. From B5 on: less deep."""
    member = next(m for m in family() if m.published.name == f"efficientnet-{name}")
    for what in ("parameters", "macs"):
        rule, published = (getattr(c, what) for c in (member.rule_cost, member.published_cost))
        assert rule == pytest.approx(published, rel=tolerance), what


def test_a_base_without_published_family_has_a_family(tiny):
    assert [m.phi for m in family("efficientnetv2-s")] == [0, 1, 2, 3]
    assert {m.published for m in family(tiny)} == {None}
    assert (
        family(dataclasses.replace(VARIANTS["efficientnet-b0"], dropout_rate=0.1))[0].published
        is None
    )


def _by_width(variant):
    return variant.width


def test_search_ranks_variants_by_accuracy():
    variants = []

    def accuracy(variant):
        variants.append(variant)
        return 70 + variant.width - abs(variant.image_size - 256) / 100

    rows = search("efficientnet-b0", accuracy)
    assert [r.accuracy for r in rows] == sorted((r.accuracy for r in rows), reverse=True)
    assert {v.image_size for v in variants} >= {224, 256}
    assert all(v.stages == VARIANTS["efficientnet-b0"].stages for v in variants)
    for row in rows:
        assert row.coefficients.growth == pytest.approx(2, rel=0.0501)
        assert row.macs == cost(row.variant).macs
        assert row.growth == pytest.approx(row.macs / cost("efficientnet-b0").macs)


def test_search_evaluates_each_network_once():
    """Alpha 1.05 to 1.25 round up to the same repeats of B0."""
    asked = []
    rows = search("efficientnet-b0", lambda v: asked.append(v) or 1.0)
    assert len(asked) < len(rows)
    networks = [(plan(v).blocks, v.image_size) for v in asked]
    assert len(set(networks)) == len(networks)


def test_search_marks_candidates_that_miss_the_cost():
    rows = search("efficientnet-b0", _by_width)
    assert {r.fits for r in rows} == {True, False}
    for row in rows:
        assert row.fits == (abs(row.growth / 2 - 1) <= 0.15)
        assert ("(misses)" in str(row)) == (not row.fits)


def test_search_can_skip_candidates_that_miss():
    asked = []
    rows = search("efficientnet-b0", lambda v: asked.append(v) or v.width, skip_misses=True)
    trained = [r for r in rows if r.accuracy is not None]
    assert all(r.fits for r in trained)
    assert rows[: len(trained)] == tuple(trained)
    assert len(asked) <= len(trained) < len(rows)


def test_of_equal_accuracies_the_cheaper_is_first():
    rows = search("efficientnet-b0", lambda v: 1)
    assert [r.macs for r in rows] == sorted(r.macs for r in rows)


def test_the_papers_choice_is_on_the_grid_and_fits():
    row = next(r for r in search("efficientnet-b0", _by_width) if r.coefficients == PAPER)
    assert row.fits
    assert row.variant.image_size == 256


def test_a_grid_without_candidates_is_an_error():
    with pytest.raises(ValueError, match="finer grid"):
        search("efficientnet-b0", _by_width, grid=([1.0], [1.0], [1.0]))
    with pytest.raises(ValueError, match="expected 3"):  # no default takes the place of gamma
        search("efficientnet-b0", _by_width, grid=([1.2], [1.1]))


@pytest.mark.parametrize("output", [None, float("nan"), "0.8"])
def test_accuracies_must_be_finite_numbers(output):
    with pytest.raises(ValueError, match=r"accuracy\(efficientnet-b0-a1"):
        search("efficientnet-b0", lambda v: output)


def test_compound_calls_any_builder_with_the_papers_factors():
    seen = compound(lambda width, depth, image_size: (width, depth, image_size), 2)
    assert seen == (1.21, 1.44, 296)
    v = VARIANTS["efficientnet-b0"]

    def rescaled(width, depth, image_size):
        return dataclasses.replace(v, width=width, depth=depth, image_size=image_size)

    for phi in (-1, 0.5, 3):
        built = compound(rescaled, phi, image_size=v.image_size)
        assert plan(built).blocks == plan(scale(v, phi)).blocks
        assert built.image_size == scale(v, phi).image_size


@pytest.mark.parametrize(
    ("phi", "message"), [(float("nan"), "phi nan"), (60, "smaller phi"), (-40, "larger phi")]
)
def test_compound_refuses_a_phi_that_no_machine_runs(phi, message):
    with pytest.raises(ValueError, match=message):
        compound(lambda *dimensions: dimensions, phi)


def test_compound_refuses_a_network_in_place_of_a_builder():
    with pytest.raises(ValueError, match=r"builder 'efficientnet-b0' is not a function; scale\(\)"):
        compound("efficientnet-b0", 1)


# Table 3 of arXiv 1905.11946, multiply-adds in billions, and the dimensions. The paper gives the
# factors of the compound row for MobileNetV1 only; see docs/scaling.md for those used here.
PUBLISHED_MACS = {
    "mobilenetv2": (
        (0.3, {}),
        (1.2, {"depth": 4}),
        (1.1, {"width": 2}),
        (1.2, {"image_size": 448}),
        (1.3, {"depth": 1.4, "width": 1.2, "image_size": 288}),
    ),
    "resnet50": (
        (4.1, {}),
        (14.7, {"depth": 4}),  # the paper has 16.2 here and 14.7 for the width
        (16.2, {"width": 2}),
        (16.4, {"image_size": 448}),
        (16.7, {"phi": 2}),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED_MACS)
def test_scaled_mobilenet_and_resnet_have_the_papers_multiply_adds(name):
    for billions, dimensions in PUBLISHED_MACS[name]:
        macs = cost(scale(name, **dimensions) if dimensions else name).macs / 1e9
        rounding = 0.05 / billions  # of a published figure with one decimal
        assert macs == pytest.approx(billions, rel=0.03) or abs(macs / billions - 1) < rounding


def test_v2s_rule_limits_the_image_and_adds_late_layers():
    plain, larger = scale("efficientnetv2-s", 3), scale_v2("efficientnetv2-s", 3, late_layers=2)
    assert plain.image_size > larger.image_size == 480
    repeats = [s.repeats for s in unscaled(plain).stages]
    assert [s.repeats for s in larger.stages] == [*repeats[:4], repeats[4] + 6, repeats[5] + 6]
    assert scale_v2("efficientnetv2-s", -1).stages == unscaled(scale("efficientnetv2-s", -1)).stages
    assert scale_v2("efficientnetv2-b0", 0).image_size == 224


def test_v2s_rule_comes_near_the_published_m_and_l():
    """docs/scaling.md states these; M and L have a seventh stage, which no scaling adds."""
    for name, phi, parameters, macs in (
        ("efficientnetv2-m", 1.5, -0.24, 0.05),
        ("efficientnetv2-l", 3.5, -0.24, -0.03),
    ):
        ours, published = cost(scale_v2("efficientnetv2-s", phi)), cost(name)
        assert ours.trainable / published.trainable - 1 == pytest.approx(parameters, abs=0.01)
        assert ours.macs / published.macs - 1 == pytest.approx(macs, abs=0.01)
