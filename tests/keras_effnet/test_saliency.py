import os
import pathlib

import numpy as np
import pytest

from keras_effnet.arguments import ArgumentParser
from keras_effnet.cli import explain as explain_cli
from keras_effnet.constructors import create_model
from keras_effnet.feature_pyramid import feature_table, features
from keras_effnet.finetuning import with_new_head
from keras_effnet.gradients import gradient
from keras_effnet.image_decoding import is_picture_of
from keras_effnet.saliency import feature_maps, grad_cam, occlusion, overlay
from keras_effnet.scaling import scale

SHARED = pathlib.Path(
    os.environ.get("KERAS_EFFNET_SHARED", pathlib.Path(__file__).parents[3] / "shared")
)


@pytest.fixture
def model(keras, tiny, tame):
    """A classifier of 64 x 64 pixels whose last feature map is 16 x 16."""
    model = create_model(tiny, classes=3, input_shape=(64, 64, 3))
    tame(model)
    return model


@pytest.fixture
def corner_model(keras):
    """A classifier by the brightness of the upper left quarter: bright is class 1, dark class 0."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Cropping2D(((0, 16), (0, 16)))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    model.layers[-1].set_weights([np.array([[-0.01, 0.01]] * 3), np.zeros(2)])
    return model


@pytest.mark.every_stack
def test_gradients_match_finite_differences(keras):
    layers = [keras.Input((4,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    rng = np.random.default_rng(0)
    x, v = (rng.standard_normal(s).astype("float32") for s in ((2, 4), (2, 3)))
    step = 1e-2 * np.eye(8, dtype="float32").reshape(8, 2, 4)
    value = lambda x: float((_outputs(model, x) * v).sum())  # noqa: E731
    want = [(value(x + s) - value(x - s)) / 2e-2 for s in step]
    np.testing.assert_allclose(gradient(model, x, v).ravel(), want, atol=2e-3)


@pytest.mark.every_stack
def test_grad_cam_of_the_last_map_is_the_class_activation_map(model, images):
    """With average pooling and a dense layer it has a closed form (section 3.1)."""
    keras_model = type(model)(model.input, model.get_layer("top_activation").output)
    maps = _outputs(keras_model, images(64))
    kernel = model.get_layer("predictions").get_weights()[0]
    for index in range(3):
        want = np.maximum(maps @ kernel[:, index], 0)
        have = grad_cam(model, images(64), index, "top_activation")
        assert have.shape == (2, 64, 64)
        for h, w in zip(have, want):
            middle = (h[1::4, 1::4] + h[2::4, 2::4]) / 2  # around the center of each map pixel
            assert np.corrcoef(middle.ravel(), w.ravel())[0, 1] > 0.95


@pytest.mark.every_stack
def test_heat_maps_have_the_images_shape_and_range_0_to_1(model, images, keras, tiny):
    wide = create_model(tiny, classes=3, input_shape=(None, None, 3))
    wide.set_weights(model.get_weights())
    for layer in (None, "block1a_add", "top_conv"):
        heat = grad_cam(wide, images(40, 56)[0].astype("uint8"), 1, layer)
        assert (heat.shape, heat.dtype) == ((40, 56), np.float32)
        assert heat.min() >= 0
        assert heat.max() == 1


@pytest.mark.every_stack
def test_a_batch_gives_the_maps_of_single_images(model, images):
    both = images(64)
    together = grad_cam(model, both, [2, 0])
    for image, heat, index in zip(both, together, (2, 0)):
        np.testing.assert_allclose(grad_cam(model, image, index), heat, atol=1e-4)


@pytest.mark.every_stack
def test_the_default_class_is_the_predicted_one(model, images):
    best = _outputs(model, images(64)).argmax(-1)
    np.testing.assert_array_equal(grad_cam(model, images(64)), grad_cam(model, images(64), best))


@pytest.mark.every_stack
def test_grad_cam_explains_the_logit(model, images):
    """The gradient of a probability of 1.0 is 0, but the logit still has evidence."""
    want = grad_cam(model, images(64), 1)
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([1000 * kernel, 1000 * bias])
    assert _outputs(model, images(64)).max() == 1.0
    np.testing.assert_allclose(grad_cam(model, images(64), 1), want, atol=1e-4)


@pytest.mark.every_stack
def test_grad_cam_of_a_nested_network(keras, tiny, images):
    backbone = create_model(tiny, include_top=False, input_shape=(32, 32, 3))
    stack = [backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, name="d")]
    stack.append(keras.layers.Activation("softmax"))
    x = inputs = keras.Input((32, 32, 3))
    for layer in stack:
        x = layer(x)
    model = keras.Model(inputs, x)
    row = keras.Sequential([keras.Input((32, 32, 3)), *stack])
    flat = with_new_head(backbone, 3)
    flat.get_layer("predictions").set_weights(model.get_layer("d").get_weights())
    want = grad_cam(flat, images(32), 1, "top_activation")
    for kind in (model, row):
        np.testing.assert_allclose(grad_cam(kind, images(32), 1), want, atol=1e-4)


@pytest.mark.every_stack
def test_occlusion_finds_the_relevant_corner(corner_model, images):
    bright = np.zeros((32, 32, 3), np.uint8)
    bright[:16, :16] = 200
    heat = occlusion(corner_model, bright, 1)
    assert (heat.shape, heat.dtype) == ((32, 32), np.float32)
    assert heat.max() == 1
    assert heat[:16, :16].mean() > 5 * heat[16:, 16:].mean()
    assert heat[24:].max() == 0
    assert not occlusion(corner_model, bright, 0).any()  # covering it increases that logit
    both = occlusion(corner_model, np.stack([bright, 255 - bright]), [1, 0], patch=16, stride=16)
    assert both.shape == (2, 32, 32)
    np.testing.assert_array_equal(both[0], occlusion(corner_model, bright, patch=16, stride=16))


def test_overlay_returns_an_image(images):
    image = images(24, 40)[0]
    heat = np.zeros((24, 40), np.float32)
    heat[:, 20:] = 1
    picture = overlay(image, heat)
    assert (picture.shape, picture.dtype) == ((24, 40, 3), np.uint8)
    saturation = np.ptp(picture.astype(int), axis=-1)
    assert saturation[:, 20:].mean() > 40 > 5 > saturation[:, :20].mean()
    assert not np.array_equal(picture, overlay(image, heat, strength=0.2))
    with pytest.raises(ValueError, match=r"heat \(40, 24\) does not fit an image \(24, 40, 3\)"):
        overlay(image, heat.T)


@pytest.mark.every_stack
def test_feature_maps_are_sorted_by_standard_deviation(model, images):
    grid = feature_maps(model, images(64)[0], "block1a_add", count=4)
    assert (grid.shape, grid.dtype) == ((2 * 33 + 1, 2 * 33 + 1, 3), np.uint8)
    assert (grid[0] == 255).all()
    assert (grid[33] == 255).all()
    assert np.ptp(grid[1:33, 1:33].astype(int)) > 200
    all_eight = feature_maps(model, images(64)[0], "block1a_add", count=100)
    assert all_eight.shape == (3 * 33 + 1, 3 * 33 + 1, 3)
    np.testing.assert_array_equal(all_eight[:33, :33], grid[:33, :33])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: grad_cam(m, x[:32]), r"image has shape \(32, 64, 3\), .*change_image_size"),
        (lambda m, x: grad_cam(m, x[..., 0]), r"image has shape \(64, 64\)"),
        (lambda m, x: grad_cam(m, x, 3), "class_index 3 does not fit .* 0 to 2"),
        (lambda m, x: grad_cam(m, x, -1), "class_index -1"),
        (lambda m, x: grad_cam(m, x, [0, 1]), "does not fit 1 images"),
        (lambda m, x: grad_cam(m, x, layer="top_activatoin"), "Did you mean 'top_activation'"),
        (lambda m, x: grad_cam(m, x, layer="avg_pool"), "not .batch, height, width, channels."),
        (lambda m, x: occlusion(m, x, patch=65), "patch 65 and stride 16 cannot cover"),
        (lambda m, x: occlusion(m, x, patch=8, stride=9), "stride of at most the patch"),
        (lambda m, x: feature_maps(m, x[None], "top_conv"), "give one image"),
        (lambda m, x: feature_maps(m, x, "nowhere"), "Unknown layer 'nowhere'"),
    ],
)
def test_invalid_images_layers_and_classes_are_errors(model, images, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, images(64)[0])


@pytest.mark.every_stack
def test_models_that_are_not_classifiers_are_errors(keras, tiny, images):
    with pytest.raises(ValueError, match="is not a classifier"):
        grad_cam(create_model(tiny, include_top=False), images(32))


@pytest.mark.every_stack
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_maps_of_networks_nested_at_any_depth(keras, tiny, tame, images, kind, depth):
    full = create_model(tiny, classes=3, input_shape=(32, 32, 3))
    body = create_model(tiny, include_top=False, pooling="avg", input_shape=(32, 32, 3))
    tame(full)
    for layer in body.layers:
        layer.set_weights(full.get_layer(layer.name).get_weights() if layer.weights else [])
    head = keras.layers.Dense(3, "softmax", name="classes")
    nested = body
    for _ in range(depth):
        x = inputs = keras.Input((32, 32, 3))
        last = [head] if nested is not body or depth == 1 else []
        row = [keras.layers.RandomFlip(), nested, *(last if not head.built else [])]
        if kind == "sequential":
            nested = keras.Sequential([inputs, *row])
        else:
            for layer in row:
                x = layer(x)
            nested = keras.Model(inputs, x)
    head.set_weights(full.get_layer("predictions").get_weights())
    image = images(32)[0]
    for layer in (None, "block1a_add"):
        want = grad_cam(full, image, 1, layer)
        np.testing.assert_allclose(grad_cam(nested, image, 1, layer), want, atol=1e-4)
    heat = occlusion(nested, image, 1, patch=16, stride=16)
    np.testing.assert_allclose(heat, occlusion(full, image, 1, patch=16, stride=16), atol=1e-4)
    np.testing.assert_array_equal(
        feature_maps(nested, image, "top_conv"), feature_maps(full, image, "top_conv")
    )


@pytest.mark.every_stack
def test_the_default_map_has_at_least_4_x_4_pixels(keras, images):
    deep = scale("efficientnet-b0", width=0.1, depth=0.1)
    body = create_model(deep, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    nested = keras.Sequential([keras.Input((64, 64, 3)), body, keras.layers.Dense(2)])
    row = feature_table(body)[4]
    assert row.stride == 16
    want = grad_cam(nested, images(64)[0], 1, row.layer)
    np.testing.assert_array_equal(grad_cam(nested, images(64)[0], 1), want)


@pytest.mark.every_stack
def test_a_nested_networks_layers_keep_their_calls(keras, tiny, images):
    body = create_model(tiny, include_top=False, pooling="avg", input_shape=(32, 32, 3))
    nested = keras.Sequential([keras.Input((32, 32, 3)), body, keras.layers.Dense(2)])
    before = [len(layer._inbound_nodes) for layer in body.layers]
    grad_cam(nested, images(32)[0], 1)
    assert [len(layer._inbound_nodes) for layer in body.layers] == before


@pytest.mark.every_stack
def test_unsupported_models_name_the_limit(keras, tiny, images):
    one, other = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    body = create_model(tiny, include_top=False, pooling="avg", name="body")
    other_body = create_model(tiny, include_top=False, pooling="avg", name="other")
    joined = keras.layers.concatenate([body(one), other_body(other)])
    two = keras.Model([one, other], joined)
    table = keras.Model([one, other], keras.layers.concatenate([body(one), body(one)]))

    class Mine(keras.Model):
        def call(self, x):
            return body(x)

    for function in (grad_cam, occlusion, lambda m, x: feature_maps(m, x, "top_conv")):
        with pytest.raises(ValueError, match="has 2 inputs and 1 outputs: only models of one"):
            function(two, images(32)[0])
        with pytest.raises(ValueError, match="neither functional nor sequential"):
            function(Mine(), images(32)[0])
        with pytest.raises(ValueError, match=r"not a keras.Model"):
            function(None, images(32)[0])
    with pytest.raises(ValueError, match=r"2 EfficientNets \('body', 'other'\): give one"):
        features(two)
    with pytest.raises(ValueError, match=r"has 2 inputs, .* give model.get_layer\('body'\)"):
        features(table, 1)


@pytest.fixture
def explain(model, images, tmp_path):
    """explain(*flags): runs the command on a saved model and image."""
    from PIL import Image

    model.save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncow\n")
    Image.fromarray(images(80, 100)[0].astype("uint8")).save(tmp_path / "image.png")

    def run(*flags):
        parser = ArgumentParser()
        explain_cli.add_arguments(parser)
        paths = [str(tmp_path / "image.png"), f"--model={tmp_path / 'model.keras'}"]
        explain_cli.run(parser.parse_args([*paths, f"--out={tmp_path / 'out.png'}", *flags]))
        return np.asarray(Image.open(tmp_path / "out.png"))

    return run


@pytest.mark.every_stack
def test_explain_writes_image_and_heat_map(explain, capsys):
    picture = explain("--class=bee")
    assert picture.shape == (448, 896, 3)
    assert "image and grad-cam for bee (0." in capsys.readouterr().out
    np.testing.assert_array_equal(picture, explain("--class=1"))
    assert explain("--maps=block1a_add").shape[2] == 3


def test_a_name_of_two_classes_is_an_error_with_both_indices(explain, tmp_path):
    (tmp_path / "labels.txt").write_text("bee\nant\nbee\n")
    with pytest.raises(ValueError, match=r"'bee' is the name of the classes 0 and 2: .* an index"):
        explain("--class=bee")
    assert explain("--class=2").shape == (448, 896, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method=gradcam"], "Unknown method 'gradcam'. Did you mean 'grad-cam'"),
        (["--method=occlusion", "--layer=top_conv"], "--layer applies to grad-cam only"),
        (["--class=bees"], "Unknown class 'bees'. Did you mean 'bee'"),
        (["--class=3"], "Unknown class '3'"),
        (["--out=/nowhere/x.png"], "/nowhere is not a folder"),
        (["--out=x.txt"], "is not an image file"),
    ],
)
def test_invalid_flags_are_errors(explain, flags, message):
    with pytest.raises(ValueError, match=message):
        explain(*flags)


def test_explain_overwrites_only_its_pictures(explain, tmp_path):
    from PIL import Image

    for name in ("model.keras", "labels.txt", "image.png"):
        (tmp_path / "link.png").unlink(missing_ok=True)
        (tmp_path / "link.png").symlink_to(tmp_path / name)
        labels = f"--labels={tmp_path / 'labels.txt'}"
        with pytest.raises(ValueError, match="would be overwritten"):
            explain(f"--out={tmp_path / 'link.png'}", labels)
    Image.new("RGB", (2, 2)).save(tmp_path / "mine.jpg")
    with pytest.raises(ValueError, match="is not a picture of effnet explain"):
        explain(f"--out={tmp_path / 'mine.jpg'}")
    for name in ("a.png", "a.jpg"):
        explain_cli._save(np.zeros((2, 2, 3), np.uint8), tmp_path / name)
        assert is_picture_of(tmp_path / name, explain_cli._MARK)


@pytest.mark.slow
@pytest.mark.tensorflow_only("reads TFRecord shards")
def test_covering_the_hottest_pixels_lowers_the_score_most(keras, capsys):
    """On a trained network: the hottest quarter of the pixels matters more than the coldest."""
    file = SHARED / "models" / "efficientnetv2-b0_cifar10_64.keras"
    shards = sorted(map(str, (SHARED / "data" / "cifar10").glob("validation-*")))
    if not file.is_file() or not shards:
        pytest.skip(f"{SHARED} has no trained network; KERAS_EFFNET_SHARED names another folder")
    import tensorflow as tf

    trained = keras.saving.load_model(file, compile=False)
    images = []
    for record in tf.data.TFRecordDataset(shards).take(6):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        pixels = tf.io.decode_jpeg(features["image/encoded"].bytes_list.value[0])
        images.append(tf.image.resize(pixels, (64, 64)).numpy())
    images = np.stack(images)
    logits = _outputs(trained, images)  # the model outputs logits
    best = logits.argmax(-1)
    fell = {}
    for method in (grad_cam, occlusion):
        heat = method(trained, images)
        for end, sign in (("hot", -1), ("cold", 1)):
            rank = np.argsort(sign * heat.reshape(6, -1), axis=1, kind="stable")[:, :1024]
            covered = images.reshape(6, -1, 3).copy()
            for picture, pixels, image in zip(covered, rank, images):
                picture[pixels] = image.mean((0, 1))
            now = _outputs(trained, covered.reshape(images.shape))
            rows = np.arange(6)
            fell[method.__name__, end] = float((logits[rows, best] - now[rows, best]).mean())
    with capsys.disabled():
        print(f"\nmean fall of the logit with a quarter covered: {fell}")
    for method in ("grad_cam", "occlusion"):
        assert fell[method, "hot"] > fell[method, "cold"] + 1


def _outputs(model, images):
    import keras

    ops = getattr(keras, "ops", None)  # Keras 2 has none
    outputs = model(images, training=False)
    return ops.convert_to_numpy(outputs) if ops else np.asarray(outputs)
