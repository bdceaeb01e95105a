import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.diagnostics import check_model
from keras_effnet.image_preprocessing import preprocessing

pytestmark = pytest.mark.every_stack


@pytest.fixture
def mine(tiny, keras):
    return create_model(tiny, classes=5)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def _checks(findings):
    return [finding.check for finding in findings]


def test_a_correct_model_and_batch_have_no_findings(mine, pixels):
    names = ["a", "b", "c", "d", "e"]
    assert check_model(mine, pixels, labels=[0, 4], class_names=names) == []
    assert check_model(mine, pixels.astype(np.uint8)) == []
    assert check_model(mine) == []


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (lambda x: x / 255, "scaled-twice", "divided by 255 already"),
        (lambda x: x / 127.5 - 1, "scaled-twice", "normalized already"),
        (lambda x: x * 257, "range", "16 bits"),
        (lambda x: x / 0, "range", "not finite"),
        (lambda x: x[0], "shape", "image[None]"),
        (lambda x: x[:, :20], "shape", "change_image_size"),
        (lambda x: x.astype(str), "range", "give numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*divide by zero|.*invalid value:RuntimeWarning")
def test_wrong_batches_are_found(mine, pixels, change, check, message):
    findings = check_model(mine, change(pixels))
    assert check in _checks(findings)
    assert message in " ".join(map(str, findings))


def test_raw_pixels_for_a_model_without_normalization(tiny, keras, pixels):
    bare = create_model(tiny, classes=5, include_preprocessing=False)
    assert _checks(check_model(bare, pixels)) == ["not-normalized"]
    assert check_model(bare, pixels / 127.5 - 1) == []


def test_a_second_normalization_is_found(tiny, keras):
    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    twice = create_model(tiny, classes=5, input_tensor=scaled)
    (finding,) = check_model(twice)
    assert finding.check == "normalized-twice"
    nested = keras.Model(inputs, create_model(tiny, classes=5)(scaled))
    assert _checks(check_model(nested)) == ["normalized-twice"]


def test_training_batch_norms_after_frozen_convolutions(mine):
    for layer in mine.layers:
        layer.trainable = "Conv" not in type(layer).__name__
    (finding,) = check_model(mine)
    assert finding.check == "batch-norm-trains-while-frozen"
    assert "keras_effnet.freeze" in str(finding)


def test_a_network_unfrozen_from_the_top_has_no_findings(mine):
    mine.trainable = False
    mine.trainable = True
    for layer in mine.layers:
        layer.trainable = layer.name.startswith(("top", "predictions"))
    assert check_model(mine) == []


def test_a_second_normalization_deep_in_a_model_is_found(tiny, keras):
    inner = keras.Sequential([keras.Input((32, 32, 3)), create_model(tiny, classes=5)])
    middle = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.RandomFlip(), inner])
    outer = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 127.5, -1)])
    outer.add(middle)
    (finding,) = check_model(outer)
    assert finding.check == "normalized-twice"
    unbuilt = keras.Sequential([keras.layers.Rescaling(1 / 255), create_model(tiny, classes=5)])
    assert _checks(check_model(unbuilt)) == ["normalized-twice"]
    one, other = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    bodies = [create_model(tiny, include_top=False, pooling="avg", name=n) for n in "ab"]
    wrong = keras.layers.Rescaling(1 / 255)(other)
    joined = keras.layers.concatenate([bodies[0](one), bodies[1](wrong)])
    assert _checks(check_model(keras.Model([one, other], joined))) == ["normalized-twice"]


def test_the_batches_of_all_inputs_are_checked(tiny, keras, pixels):
    one, other = keras.Input((32, 32, 3), name="one"), keras.Input((32, 32, 3), name="other")
    bodies = [create_model(tiny, include_top=False, pooling="avg", name=n) for n in "ab"]
    joined = keras.layers.concatenate([bodies[0](one), bodies[1](other)])
    model = keras.Model([one, other], joined)
    assert _checks(check_model(model, [pixels, pixels / 255])) == ["scaled-twice"]
    assert _checks(check_model(model, {"other": pixels, "one": pixels / 255})) == ["scaled-twice"]
    for wrong in (pixels, [pixels], {"one": pixels}, np.stack([pixels, pixels])):
        (finding,) = check_model(model, wrong)
        assert finding.check == "shape"
        assert "other" in finding.message


def test_pixels_for_a_model_that_expects_0_to_1_are_found(tiny, keras, pixels):
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(255.0)])
    model.add(create_model(tiny, classes=5))
    (finding,) = check_model(model, pixels)
    assert finding.check == "range"
    assert "divide the images by 255" in finding.message


def test_a_batch_for_a_subclassed_model_is_checked(tiny, keras, pixels):
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = create_model(tiny, classes=5)

        def call(self, x):
            return self.body(x)

    assert _checks(check_model(Mine(), pixels / 255)) == ["scaled-twice"]
    assert check_model(Mine(), pixels) == []


@pytest.mark.parametrize("given", [None, 3, "model.keras", create_model])
def test_what_is_not_a_model_is_one_clear_error(given):
    for function in (check_model, preprocessing):
        with pytest.raises(ValueError, match=r"not a keras.Model: build one with create_model"):
            function(given)


def test_training_batch_norms_in_a_frozen_backbone_are_found(tiny, keras):
    body = create_model(tiny, include_top=False, pooling="avg")
    head = [keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((32, 32, 3)), body, *head])
    for layer in body.layers:
        layer.trainable = type(layer).__name__ == "BatchNormalization"
    (finding,) = check_model(model)
    assert finding.check == "batch-norm-trains-while-frozen"
    inside = sum(type(layer).__name__ == "BatchNormalization" for layer in body.layers)
    assert f"but {inside} batch norms" in finding.message


def test_a_softmax_over_one_class_is_found(tiny, keras):
    model = create_model(tiny, classes=1)
    assert _checks(check_model(model, labels=[0, 1])) == ["one-class-softmax"]
    binary = create_model(tiny, classes=1, classifier_activation="sigmoid")
    assert _checks(check_model(binary, labels=[0, 2])) == ["class-count"]
    assert _checks(check_model(binary, class_names=["a", "b", "c"])) == ["class-count"]


def test_a_half_precision_classifier_is_found(keras, tiny):
    keras.mixed_precision.set_global_policy("mixed_float16")
    backbone = create_model(tiny, include_top=False, pooling="avg")
    theirs = keras.Model(
        backbone.input, keras.layers.Dense(5, activation="softmax")(backbone.output)
    )
    assert _checks(check_model(theirs)) == ["half-precision-classifier"]
    assert check_model(create_model(tiny, classes=5)) == []  # computes in float32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 5], "labels run from 0 to 5"),
        ([1, 5], "start at 1"),
        ([-1, 2], "labels run from -1"),
        (np.eye(7)[:2], "5 classes, but the labels have 7"),
    ],
)
def test_labels_out_of_range_are_found(mine, labels, message):
    (finding,) = check_model(mine, labels=labels)
    assert finding.check == "class-count"
    assert message in str(finding)


def test_labels_out_of_range_of_a_custom_classifier_are_found(tiny, keras):
    class NormedDense(keras.layers.Dense):
        pass

    backbone = create_model(tiny, include_top=False, pooling="avg")
    for head in (NormedDense(5), keras.layers.Dense(5), keras.layers.EinsumDense("bc,cd->bd", 5)):
        model = keras.Sequential([keras.Input((32, 32, 3)), backbone, head])
        (finding,) = check_model(model, labels=[1, 5])
        assert "start at 1" in str(finding)


@pytest.mark.parametrize("classes", [1001, 21843])
def test_1001_and_21843_classes_point_to_label_map(keras, tiny, classes):
    model = create_model(tiny, classes=classes)
    (finding,) = check_model(model, class_names=["x"] * 1000)
    assert f"keras_effnet.label_map({classes})" in str(finding)


def _trained(model):
    """The model with moving statistics that differ from the initial ones."""
    norm = model.get_layer("stem_bn")
    *others, variance = norm.get_weights()
    norm.set_weights([*others, 2 * variance])
    return model


def test_a_model_size_that_differs_from_the_evaluation_size(keras, tiny, pixels, tmp_path):
    _trained(create_model(tiny, classes=5, input_shape=(64, 64, 3))).save(tmp_path / "x.keras")
    model = create_model(tiny, classes=5, input_shape=(32, 32, 3), weights=tmp_path / "x.keras")
    (finding,) = check_model(model, pixels)
    assert finding.check == "evaluation-size"
    assert "change_image_size(model, 64)" in str(finding)


def test_a_batch_size_that_differs_from_the_evaluation_size(keras, pixels):
    from keras_effnet.image_preprocessing import Preprocessing

    model = create_model(
        "efficientnetv2-b0",
        input_shape=(None, None, 3),
        classes=2,
        preprocessing=Preprocessing(64, 0.875, "bicubic"),
    )
    assert check_model(model, pixels) == []  # random weights have not been evaluated
    (finding,) = check_model(_trained(model), pixels)
    assert finding.check == "evaluation-size"
    assert "64 x 64" in str(finding)
    assert check_model(model, np.repeat(np.repeat(pixels, 2, 1), 2, 2)) == []


@pytest.mark.parametrize(
    "scale",
    [
        lambda keras, x: keras.layers.Rescaling(1 / 255)(x),
        lambda keras, x: keras.layers.Rescaling(1 / 127.5, -1)(x),
        lambda keras, x: keras.layers.Lambda(lambda x: x / 255.0)(x),
        lambda keras, x: keras.layers.Lambda(lambda x: x / 127.5 - 1)(x),
        lambda keras, x: x / 255.0,
        lambda keras, x: x / 127.5 - 1.0,
        lambda keras, x: keras.layers.Lambda(lambda x: (x - 128) / 64)(x),
        lambda keras, x: keras.layers.Normalization(mean=[128] * 3, variance=[4000] * 3)(x),
    ],
)
def test_every_usual_form_of_a_second_normalization_is_found(keras, tiny, pixels, scale):
    inputs = keras.Input((32, 32, 3))
    twice = keras.Model(inputs, create_model(tiny, classes=5)(scale(keras, inputs)))
    assert _checks(check_model(twice, pixels)) == ["normalized-twice"]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x / 255,
        lambda x: x.astype("float64") / 255,
        lambda x: x / 127.5 - 1,
        lambda x: (x - x.mean()) / x.std(),
        lambda x: x[..., ::-1] - np.float32([103.9, 116.8, 123.7]),  # as for ResNet50
        lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        lambda x: (x / 255).astype("float16"),
        lambda x: (x / 255).tolist(),
    ],
)
def test_every_usual_form_of_a_scaled_batch_is_found(mine, pixels, change):
    assert _checks(check_model(mine, change(pixels))) == ["scaled-twice"]


LOGITS = {"classifier_activation": None}
SIGMOID = {"classifier_activation": "sigmoid"}


@pytest.mark.parametrize(
    ("options", "loss", "from_logits", "message"),
    [
        ({}, "SparseCategoricalCrossentropy", True, "computes another one"),
        ({}, "CategoricalCrossentropy", True, "computes another one"),
        (SIGMOID, "BinaryCrossentropy", True, "computes another one"),
        (LOGITS, "SparseCategoricalCrossentropy", False, "has no activation"),
        (LOGITS, "BinaryCrossentropy", False, 'activation="sigmoid"'),
        (SIGMOID, "CategoricalCrossentropy", False, "do not sum to 1"),
        (SIGMOID, "SparseCategoricalCrossentropy", False, "do not sum to 1"),
        ({**SIGMOID, "classes": 1}, "CategoricalCrossentropy", False, "has one output"),
    ],
)
def test_a_loss_that_does_not_fit_the_activation_is_found(
    keras, tiny, options, loss, from_logits, message
):
    model = create_model(tiny, **{"classes": 3, **options})
    forms = [getattr(keras.losses, loss)(from_logits=from_logits)]
    if not from_logits:
        function = {"S": "sparse_categorical", "C": "categorical", "B": "binary"}[loss[0]]
        forms += [f"{function}_crossentropy", getattr(keras.losses, f"{function}_crossentropy")]
    tail = keras.layers.Activation("linear", dtype="float32")
    behind = keras.Sequential([keras.Input(model.input_shape[1:]), model, tail])
    for form in (*forms, [forms[-1]]):
        for network in (model, behind):
            network.compile("sgd", form)
            (finding,) = check_model(network)
            assert finding.check == "loss-activation"
            assert message in finding.message


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        ("sparse_categorical_crossentropy", np.eye(5)[:2], "as one-hot labels do"),
        ("categorical_crossentropy", np.array([0, 4]), "takes one-hot labels (batch, 5)"),
        ("categorical_crossentropy", [[0], [4]], "takes one-hot labels (batch, 5)"),
    ],
)
def test_labels_of_another_form_than_the_loss_takes_are_found(mine, loss, labels, message):
    mine.compile("sgd", loss)
    (finding,) = check_model(mine, labels=labels)
    assert finding.check == "labels"
    assert message in finding.message


def test_a_softmax_of_a_softmax_is_found(keras, tiny):
    classifier = create_model(tiny, classes=3)
    for again in (keras.layers.Softmax(), keras.layers.Activation("softmax")):
        model = keras.Sequential([keras.Input((32, 32, 3)), classifier, again])
        assert _checks(check_model(model)) == ["repeated-softmax"]


def test_a_normalization_with_stale_constants_is_found(keras, pixels):
    if keras.__version__.startswith("2."):
        pytest.skip("Keras 2 does not keep the constants that it uses")
    norm = keras.layers.Normalization()
    norm.adapt(pixels)
    model = keras.Sequential([keras.Input((32, 32, 3)), norm, keras.layers.Conv2D(2, 3)])
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert check_model(model) == []
    assert _checks(check_model(clone)) == ["stale-normalization"]
    clone.layers[0].finalize_state()
    assert check_model(clone) == []
