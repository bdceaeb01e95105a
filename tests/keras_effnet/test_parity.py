"""Our networks and keras.applications', with the same weights: equal outputs, under the same
names, through the same signatures."""

import dataclasses
import hashlib
import inspect
import re

import numpy as np
import pytest

import keras_effnet
from keras_effnet.constructors import create_model
from keras_effnet.network_plan import plan
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS
from keras_effnet.variants import V1, VARIANTS

SHARED = {f"efficientnet-b{i}": f"EfficientNetB{i}" for i in range(8)} | {
    f"efficientnetv2-{s.lower()}": f"EfficientNetV2{s}"
    for s in ("B0", "B1", "B2", "B3", "S", "M", "L")
}
# The others differ in the rows of their table only; test_cost_published.py counts all of them.
SMALLEST = ("efficientnet-b0", "efficientnetv2-b0")
BY_COST = [
    *(pytest.param(n, marks=[pytest.mark.slow, pytest.mark.every_stack]) for n in SMALLEST),
    *(
        pytest.param(n, marks=[pytest.mark.exhaustive, pytest.mark.every_stack])
        for n in SHARED
        if n not in SMALLEST
    ),
]
ODD = (65, 97)  # keras.applications' V1 is correct at odd sizes only if built for them

# Layers without weights that only one side has.
THEIRS_ALONE = re.compile(
    r"rescaling(_\d+)?"  # ours has one normalization layer
    r"|normalization(_\d+)?"  # theirs is numbered within a session
    r"|stem_conv_pad|block\d[a-z]_dwconv_pad"  # V1 pads in separate layers
)
OURS_ALONE = re.compile(
    r"normalization"
    r"|preprocessing_\w+(\.\w+)*"  # stores the preprocessing
    r"|block1a_drop"  # theirs omits the layer at rate 0
)


@pytest.fixture
def release(tmp_path, monkeypatch, write_legacy_h5):
    """release(variant, whole, headless): puts two models' files where "imagenet" is cached."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_EFFNET_OFFLINE", "1")
    (tmp_path / "models").mkdir()

    def put(model, url):
        path = tmp_path / "models" / url.rsplit("/")[-1]
        write_legacy_h5(model, path)
        return hashlib.md5(path.read_bytes()).hexdigest()

    def release(variant, whole, headless):
        row = PRETRAINED_WEIGHTS[variant, "imagenet"]
        md5, notop_md5 = put(whole, row.url), put(headless, row.notop_url)
        row = dataclasses.replace(row, md5=md5, notop_md5=notop_md5)
        monkeypatch.setitem(PRETRAINED_WEIGHTS, (variant, "imagenet"), row)

    return release


def _numbers(tensor):
    return np.array(tensor)


def _close(have, want, what):
    off = np.abs(_numbers(have) - _numbers(want)).max()
    assert off <= 1e-5, f"{what}: max|diff| {off:.2e}"


def _assert_same_layers(ours, theirs, v1):
    inputs = {layer.name for m in (ours, theirs) for layer in m.layers[:1]}
    have = {layer.name for layer in ours.layers} - inputs
    want = {layer.name for layer in theirs.layers} - inputs
    assert [n for n in have - want if not OURS_ALONE.fullmatch(n)] == []
    assert [n for n in want - have if not THEIRS_ALONE.fullmatch(n)] == []
    for name in have & want:
        mine, other = ours.get_layer(name), theirs.get_layer(name)
        assert type(mine).__name__ == type(other).__name__, name
        if not name.startswith("normalization"):
            assert [w.shape for w in mine.weights] == [w.shape for w in other.weights], name
        if type(mine).__name__ == "BatchNormalization":
            assert (mine.momentum, mine.epsilon) == (other.momentum, other.epsilon), name
        if v1 and name.endswith("_drop"):  # V2's are wrong there: see test_network_plan.py
            assert mine.rate == pytest.approx(other.rate, abs=1e-12), name

    def order(model):
        return [m.name for m in model.layers if m.weights and "normalization" not in m.name[:13]]

    assert order(ours) == order(theirs)  # files are read in this order too


@pytest.mark.tensorflow_only("JAX compiles every operation of two networks; the small ones run")
@pytest.mark.parametrize("name", BY_COST)
def test_released_files_logits_and_features_match_applications(
    keras, name, zoo, images, tame, release
):
    """weights="imagenet" with files written by keras.applications' network."""
    theirs = getattr(keras.applications, SHARED[name])(
        weights=None, input_shape=(*ODD, 3), classifier_activation=None
    )
    tame(theirs)
    both = keras.Model(theirs.input, [theirs.get_layer("top_activation").output, theirs.output])
    x = images(*ODD)
    want_features, want_logits = (_numbers(t) for t in both(x))
    assert 0.05 < np.abs(want_logits).max() < 50  # otherwise 1e-5 would be meaningless
    assert np.abs(want_logits[0] - want_logits[1]).max() > 1e-4  # the outputs depend on the image

    build = getattr(keras_effnet, SHARED[name])
    release(name, theirs, keras.Model(theirs.input, theirs.get_layer("top_activation").output))
    ours = build(input_shape=(None, None, 3), classifier_activation=None)
    assert ours.count_params() == zoo[name]["total"]
    _assert_same_layers(ours, theirs, v1=VARIANTS[name].family is V1)
    _close(ours(x), want_logits, "logits")
    del ours

    headless = build(include_top=False)
    assert headless.count_params() == zoo[name]["notop"]
    assert headless.layers[-1].name == "top_activation"
    features = headless(x)
    assert tuple(features.shape) == (2, 3, 4, zoo[name]["head"])
    scale = max(1.0, np.abs(want_features).max())
    _close(_numbers(features) / scale, want_features / scale, "features")


@pytest.mark.every_stack
@pytest.mark.tensorflow_only("JAX compiles every operation of two networks; the small ones run")
def test_dynamic_and_static_published_networks_are_equal(keras, images, tame):
    """75 px leads to odd sizes: 75, 38, 19, 10, 5, 3."""
    name = "efficientnet-b0"
    dynamic = create_model(name, input_shape=(None, None, 3), classifier_activation=None)
    static = create_model(name, input_shape=(75, 75, 3), classifier_activation=None)
    tame(dynamic)
    static.set_weights(dynamic.get_weights())
    np.testing.assert_array_equal(_numbers(dynamic(images(75))), _numbers(static(images(75))))


@pytest.mark.every_stack
@pytest.mark.parametrize("size", [(64, 64), (45, 67)])
def test_small_variants_match_keras_applications_builder(
    keras, small, size, images, tame, copy_by_name, by_applications
):
    theirs = by_applications(small, (*size, 3), classes=5)
    tame(theirs)
    ours = create_model(small, classes=5, classifier_activation=None, input_shape=(None, None, 3))
    _assert_same_layers(ours, theirs, v1=small.family is V1)
    copy_by_name(theirs, ours)
    want = _numbers(theirs(images(*size)))
    assert np.abs(want).max() > 0.05
    _close(ours(images(*size)), want, "logits")


@pytest.mark.every_stack
def test_small_variants_match_with_pixels_centered_at_128(
    keras, small, images, tame, copy_by_name, by_applications
):
    """V2 S, M, L; keras.applications decides by the suffix of the name."""
    if small.family is V1:
        pytest.skip("V1 has one normalisation")
    row = VARIANTS["efficientnetv2-s"].normalization
    variant = dataclasses.replace(small, normalization=row)
    theirs = by_applications(variant, (64, 64, 3), classes=5, name="small-v2-s")
    tame(theirs)
    ours = create_model(variant, classes=5, classifier_activation=None)
    copy_by_name(theirs, ours)
    _close(ours(images(64)), theirs(images(64)), "logits")


@pytest.mark.every_stack
@pytest.mark.parametrize("name", SHARED)
def test_signatures_are_keras_applications(keras, name):
    """Names, order, kinds and defaults; additional arguments follow and are keyword-only."""
    theirs = inspect.signature(getattr(keras.applications, SHARED[name])).parameters.values()
    ours = list(inspect.signature(getattr(keras_effnet, SHARED[name])).parameters.values())
    shared = [p for p in theirs if p.kind is not p.VAR_KEYWORD]  # Keras 2.15's V1 takes **kwargs

    def described(parameters):
        return [(p.name, p.kind, p.default) for p in parameters]

    assert described(ours[: len(shared)]) == described(shared)
    rest = ours[len(shared) :]
    if keras.__version__.startswith("2."):  # before `name`
        assert rest.pop(0).name == "name"
    additions = {"drop_path_rate", "dropout_rate", "name_prefix", "preprocessing"}
    additions |= {"include_preprocessing"} if VARIANTS[name].family is V1 else set()
    assert {p.name for p in rest} == additions
    assert {p.kind for p in rest} == {inspect.Parameter.KEYWORD_ONLY}


def test_other_variants_have_the_same_signatures():
    v1 = inspect.signature(keras_effnet.EfficientNetB0).parameters
    v2 = inspect.signature(keras_effnet.EfficientNetV2B0).parameters
    for function, like, name in (
        ("EfficientNetB8", v1, "efficientnetb8"),
        ("EfficientNetL2", v1, "efficientnetl2"),
        *((f"EfficientNetLite{i}", v1, f"efficientnet-lite{i}") for i in range(5)),
        ("EfficientNetV2XL", v2, "efficientnetv2-xl"),
    ):
        have = inspect.signature(getattr(keras_effnet, function)).parameters
        assert list(have) == list(like)
        assert have["name"].default == name


def test_every_constructor_is_public_named_and_documented():
    functions = {**SHARED, "efficientnet-b8": "EfficientNetB8", "efficientnet-l2": "EfficientNetL2"}
    functions |= {f"efficientnet-lite{i}": f"EfficientNetLite{i}" for i in range(5)}
    functions["efficientnetv2-xl"] = "EfficientNetV2XL"
    assert set(functions) == set(VARIANTS)
    for variant, name in functions.items():
        function = getattr(keras_effnet, name)
        assert name in keras_effnet.__all__
        assert function.__name__ == name
        assert function.__doc__.startswith(f"Builds {variant}, {plan(variant).image_size} px.")
        assert "include_top" in function.__doc__
