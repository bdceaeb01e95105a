import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.finetuning import (
    freeze,
    layer_groups,
    layer_rates,
    select_layers,
    unfreeze,
    unfreeze_schedule,
    with_new_head,
)

pytestmark = pytest.mark.every_stack


def _outputs(model, images):
    return np.asarray(model(images, training=False))


def test_a_new_head_shares_the_backbone(keras, small, tame, images):
    model = create_model(small, classes=7, input_shape=(32, 32, 3), dropout_rate=0.4)
    tame(model)
    new = with_new_head(model, 3)
    assert new.output_shape == (None, 3)
    assert new.name == model.name
    shared = [layer.name for layer in new.layers if layer in model.layers]
    assert shared == [layer.name for layer in model.layers[:-2]]  # up to avg_pool
    assert "normalization" in shared
    assert new.get_layer("top_dropout").rate == 0.4
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    again = keras.Model(new.input, new.get_layer("avg_pool").output)
    np.testing.assert_array_equal(_outputs(pooled, images(32)), _outputs(again, images(32)))


def test_a_new_head_first_predicts_equal_scores(keras, tiny, images):
    new = with_new_head(create_model(tiny, input_shape=(32, 32, 3)), 4)
    np.testing.assert_allclose(_outputs(new, images(32)), np.full((2, 4), 0.25))
    logits = with_new_head(new, 5, activation=None, dropout_rate=0.1)
    np.testing.assert_array_equal(_outputs(logits, images(32)), np.zeros((2, 5)))
    assert logits.get_layer("top_dropout").rate == 0.1


@pytest.mark.parametrize(("pooling", "layer"), [(None, "avg_pool"), ("max", "max_pool")])
def test_a_model_without_top_gets_a_head(keras, tiny, pooling, layer):
    backbone = create_model(tiny, include_top=False, pooling=pooling)
    new = with_new_head(backbone, 2)
    assert new.output_shape == (None, 2)
    assert [x.name for x in new.layers][-3:] == [layer, "top_dropout", "predictions"]


def test_a_new_head_computes_in_float32(keras, tiny, images):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    new = with_new_head(create_model(tiny, input_shape=(32, 32, 3)), 4)
    assert _outputs(new, images(32)).dtype == np.float32


def test_a_new_head_survives_saving(keras, tiny, tmp_path, images):
    new = with_new_head(create_model(tiny, input_shape=(32, 32, 3)), 4)
    new.set_weights([w + 0.1 for w in new.get_weights()])
    new.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras", compile=False)
    np.testing.assert_array_equal(_outputs(loaded, images(32)), _outputs(new, images(32)))


def test_every_layer_is_in_one_group(keras, small):
    model = create_model(small, input_shape=(32, 32, 3))
    groups = layer_groups(model)
    assert list(groups) == ["stem", "block1", "block2", "block3", "top", "head"]
    assert [layer.name for layers in groups.values() for layer in layers] == [
        layer.name for layer in model.layers
    ]
    assert [x.name for x in groups["top"]] == ["top_conv", "top_bn", "top_activation"]
    assert [x.name for x in groups["head"]] == ["avg_pool", "top_dropout", "predictions"]
    assert "head" not in layer_groups(create_model(small, include_top=False))


def test_layers_around_the_network_belong_to_a_group(keras, tiny):
    backbone = create_model(tiny, include_top=False, pooling="avg")
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1.0), backbone, keras.layers.Dense(2)]
    )
    groups = layer_groups(model)
    assert list(groups) == ["stem", "block1", "block2", "top", "head"]
    assert groups["stem"][0] is model.layers[0]
    assert groups["head"][-1] is model.layers[-1]
    freeze(model, up_to="top")
    assert len(model.trainable_variables) == 2


def test_freeze_sets_every_layer_of_the_model(keras, tiny):
    model = create_model(tiny, classes=3)
    every = len(model.trainable_variables)
    assert freeze(model) == ("stem", "block1", "block2", "top")
    assert [v.shape[-1] for v in model.trainable_variables] == [3, 3]
    assert freeze(model, up_to="stem", batch_norm="train") == ("stem",)
    frozen = {layer.name for layer in model.layers if not layer.trainable}
    assert frozen >= {"stem_conv", "stem_bn"}
    assert not any(name.startswith(("block", "top")) for name in frozen)
    unfreeze(model)
    kinds = {type(layer).__name__ for layer in model.layers if not layer.trainable}
    assert kinds == {"BatchNormalization"}
    unfreeze(model, batch_norm="train")
    assert len(model.trainable_variables) == every


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_training_changes_only_unfrozen_layers(keras, tiny, images, batch_norm):
    model = with_new_head(create_model(tiny, input_shape=(32, 32, 3)), 2)
    freeze(model, up_to="block1", batch_norm=batch_norm)
    moved = _moved_by_training(keras, model, images, steps=2)
    groups = layer_groups(model)
    for name in ("stem", "block1"):
        assert not moved & {layer.name for layer in groups[name]}
    for name in ("block2", "top", "head"):
        for layer in groups[name]:
            if layer.weights:
                is_norm = type(layer).__name__ == "BatchNormalization"
                assert (layer.name in moved) == (batch_norm == "train" or not is_norm), layer.name


def test_each_unfreeze_phase_trains_one_more_group(keras, tiny, images):
    model = with_new_head(create_model(tiny, input_shape=(32, 32, 3)), 2)
    groups, moved = layer_groups(model), []
    for step in unfreeze_schedule(groups, epochs=2):
        freeze(model, step.freeze_up_to)
        moved.append(_moved_by_training(keras, model, images, steps=2))
        trained = {n for n, layers in groups.items() if moved[-1] & {x.name for x in layers}}
        assert trained == set(step.trains)
    assert moved[0] == {"predictions"}


def _moved_by_training(keras, model, images, steps):
    """Names of the layers whose weights change within some steps."""
    before = {layer.name: layer.get_weights() for layer in model.layers}
    by_jax = keras.__version__[0] != "2" and keras.backend.backend() == "jax"
    how = {} if by_jax else {"run_eagerly": True}  # tracing takes longer than running
    model.compile("adam", "sparse_categorical_crossentropy", **how)
    for _ in range(steps):  # in the first step, a zero-initialized head gives no gradient
        model.train_on_batch(images(32), np.array([0, 1]))
    return {
        layer.name
        for layer in model.layers
        for a, b in zip(before[layer.name], layer.get_weights())
        if not np.array_equal(a, b)
    }


def test_layer_rates_decrease_from_head_to_stem(keras, small):
    model = create_model(small, classes=3)
    rates = layer_rates(model, 1e-3, decay=0.5)
    assert set(rates) == {layer.name for layer in model.layers if layer.weights}
    want = {"predictions": 0, "top_bn": 1, "block3b_bn": 2, "block1a_project_bn": 4, "stem_conv": 5}
    assert {n: rates[n] for n in want} == {n: 1e-3 * 0.5**d for n, d in want.items()}
    backbone = create_model(small, include_top=False)  # the same rates without a head
    assert layer_rates(backbone, 1e-3, 0.5)["top_conv"] == rates["top_conv"]
    assert set(layer_rates(model, 0.1, decay=1).values()) == {0.1}


@pytest.mark.tensorflow_only("the loop is TensorFlow's")
@pytest.mark.parametrize("nested", [0, 1, 2])
def test_one_optimizer_per_rate_trains_each_layer_at_its_rate(keras, tiny, images, nested):
    import tensorflow as tf

    model = create_model(tiny, classes=3, input_shape=(32, 32, 3), drop_path_rate=0)
    for _ in range(nested):
        model = keras.Sequential([keras.Input((32, 32, 3)), model, keras.layers.Dense(3)])
    groups = layer_groups(model).values()
    rates = layer_rates(model, 1e-2, decay=0.5)
    layers = [layer for group in groups for layer in group if layer.name in rates]
    optimizers = {rate: keras.optimizers.SGD(rate) for rate in set(rates.values())}
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(images(32), training=False)[:, 0])
    every = model.trainable_variables
    gradients = {id(v): g for v, g in zip(every, tape.gradient(total, every))}
    before = {id(v): v.numpy() for v in every}
    for rate, optimizer in optimizers.items():
        theirs = [layer for layer in layers if rates[layer.name] == rate]
        variables = [v for layer in theirs for v in layer.trainable_variables]
        optimizer.apply_gradients([(gradients[id(v)], v) for v in variables])
    assert {id(v) for layer in layers for v in layer.trainable_variables} == {id(v) for v in every}
    for layer in layers:
        for v in layer.trainable_variables:
            want = before[id(v)] - rates[layer.name] * gradients[id(v)].numpy()
            np.testing.assert_allclose(v.numpy(), want, rtol=1e-5, atol=1e-7)


def test_the_unfreeze_schedule_ends_with_epochs_or_groups():
    short = unfreeze_schedule(["stem", "block1", "block2", "head"], epochs=3, epochs_each=2)
    assert [(s.first_epoch, s.end_epoch, s.freeze_up_to) for s in short] == [
        (0, 2, "block2"),
        (2, 3, "block1"),
    ]
    long = unfreeze_schedule(["stem", "head"], epochs=10)
    assert [(s.first_epoch, s.end_epoch, s.freeze_up_to) for s in long] == [
        (0, 1, "stem"),
        (1, 10, None),
    ]
    assert long[1].trains == ("stem", "head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: freeze(m, "blok2"), "Unknown group 'blok2'. Did you mean 'block2' or 'block1'"),
        (lambda m: freeze(m, "block9"), "Known: stem, block1, block2, top, head"),
        (lambda m: freeze(m, batch_norm="freeze"), "Unknown batch_norm 'freeze'. Did you mean"),
        (lambda m: unfreeze(m, batch_norm=None), "Unknown batch_norm None"),
        (lambda m: layer_rates(m, 0), "rate 0 is not a learning rate"),
        (lambda m: layer_rates(m, "1e-3"), "rate '1e-3' is not a learning rate"),
        (lambda m: layer_rates(m, 1e-3, decay=0), "decay 0 is out of range"),
        (lambda m: layer_rates(m, 1e-3, decay=None), "decay None is out of range"),
        (lambda m: unfreeze_schedule(layer_groups(m), 0), "epochs 0 is invalid"),
        (lambda m: unfreeze_schedule(layer_groups(m), 10.0), "epochs 10.0 is invalid"),
        (lambda m: unfreeze_schedule(layer_groups(m), 5, epochs_each=1.5), "epochs_each 1.5"),
        (lambda m: unfreeze_schedule([], 5), "no groups"),
        (lambda m: with_new_head(m, 0), "classes 0 is not a number of classes"),
        (lambda m: with_new_head(m, True), "classes True"),
        (lambda m: with_new_head(m, 3, dropout_rate=1), "dropout_rate 1 is not a probability"),
        (lambda m: with_new_head(m, 3, dropout_rate="0"), "dropout_rate '0' is not a probability"),
    ],
)
def test_invalid_arguments_raise_and_change_nothing(keras, tiny, change, message):
    model = create_model(tiny, classes=3)
    every = len(model.trainable_variables)
    with pytest.raises(ValueError, match=message):
        change(model)
    assert len(model.trainable_variables) == every


def test_a_nested_network_cannot_get_a_new_head(keras, tiny):
    backbone = create_model(tiny, include_top=False, pooling="avg", name="backbone")
    model = keras.Sequential([keras.Input((32, 32, 3)), backbone, keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"give model.get_layer\('backbone'\)"):
        with_new_head(model, 3)


# --- select_layers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "first", "last"),
    [
        ("backbone", "stem_conv", "top_bn"),
        ("top", "stem_conv", "top_bn"),
        ("stem", "stem_conv", "stem_bn"),
        ("block1", "stem_conv", "block1a_project_bn"),
        ("block2*", "block2a_expand_conv", "block2b_project_bn"),
        ("block1+top_bn", "stem_conv", "top_bn"),
        ("predictions", "predictions", "predictions"),
    ],
)
def test_layers_are_selected_by_group_or_pattern_in_order(tiny, names, first, last):
    model = create_model(tiny, classes=3)
    selected = [x.name for x in select_layers(model, names) if x.weights]
    selected = [name for name in selected if name != "normalization"]
    assert (selected[0], selected[-1]) == (first, last)
    order = [layer.name for layer in model.layers]
    assert sorted(selected, key=order.index) == selected
    assert ("block1a_project_bn" in selected) == (first == "stem_conv" and names != "stem")


def test_batch_norms_and_nothing_are_selected_in_any_model(keras):
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(2, 3, name="conv")(x))
    x = keras.layers.Dense(2, name="head")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Activation("softmax")(x))
    for names, expected in (
        ("none", []),
        ("batch_norm", ["norm"]),
        ("backbone", ["conv", "norm"]),
        ("batch_norm+head", ["norm", "head"]),
    ):
        assert [x.name for x in select_layers(model, names) if x.weights] == expected
    with pytest.raises(ValueError, match=r"Unknown group of layers 'stem'.*batch_norm, backbone"):
        select_layers(model, "stem")


def test_an_unknown_group_names_the_nearest(tiny):
    with pytest.raises(
        ValueError, match=r"Unknown group of layers 'blok2'\. Did you mean 'block2'"
    ):
        select_layers(create_model(tiny), "blok2")
