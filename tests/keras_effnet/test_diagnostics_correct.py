"""Ordinary correct models and batches, about which `check_model` says nothing."""

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.diagnostics import check_model
from keras_effnet.finetuning import freeze, with_new_head
from keras_effnet.image_preprocessing import Preprocessing

pytestmark = [
    pytest.mark.every_stack,
    pytest.mark.tensorflow_only("kinds of Keras models; test_diagnostics.py runs on every backend"),
]

S = (32, 32, 3)
RAW = np.random.default_rng(0).integers(0, 256, (2, *S)).astype("uint8")
UNIT = RAW / np.float32(255)


class Models:
    """Builds models around the tiny network."""

    def __init__(self, keras, tiny):
        self.keras, self.L, self.tiny = keras, keras.layers, tiny

    def net(self, **options):
        return create_model(self.tiny, **{"input_shape": S, "classes": 3, **options})

    def body(self, name=None, **options):
        return self.net(include_top=False, pooling="avg", name=name, **options)

    def wrap(self, *layers, shape=S):
        return self.keras.Sequential([self.keras.Input(shape), *layers])

    def functional(self, *layers, shape=S):
        x = inputs = self.keras.Input(shape)
        for layer in layers:
            x = layer(x)
        return self.keras.Model(inputs, x)

    def two_inputs(self):
        a, b = self.keras.Input(S, name="a"), self.keras.Input(S, name="b")
        joined = self.L.concatenate([self.body("left")(a), self.body("right")(b)])
        return self.keras.Model([a, b], self.L.Dense(2)(joined))

    def image_and_table(self):
        a, b = self.keras.Input(S, name="image"), self.keras.Input((4,), name="table")
        scaled = self.L.Normalization(mean=[0.0] * 4, variance=[4.0] * 4)(b)
        joined = self.L.concatenate([self.body()(a), scaled])
        return self.keras.Model([a, b], self.L.Dense(2)(joined))

    def side_by_side(self):
        x = self.keras.Input(S)
        joined = self.L.concatenate([self.body("left")(x), self.body("right")(x)])
        return self.keras.Model(x, self.L.Dense(2)(joined))

    def two_outputs(self):
        body = self.body()
        kind = self.L.Dense(4, activation="softmax", name="kind")(body.output)
        return self.keras.Model(body.input, [kind, self.L.Dense(1, name="age")(body.output)])

    def subclassed(self):
        body, head = self.body(), self.L.Dense(3, activation="softmax")

        class Mine(self.keras.Model):
            def __init__(self):
                super().__init__()
                self.body, self.head = body, head

            def call(self, x):
                return self.head(self.body(x))

        model = Mine()
        model(RAW)
        return model

    def nested_twice(self):
        inner = self.wrap(self.L.RandomFlip(), self.body())
        return self.functional(inner, self.L.Dropout(0.1), self.L.Dense(3, activation="softmax"))

    def frozen_with_batch_norm(self):
        body = self.body()
        head = [self.L.BatchNormalization(), self.L.Dropout(0.2), self.L.Dense(3)]
        model = self.wrap(body, *head)
        freeze(model)
        return model

    def frozen_with_convolution(self):
        body = self.net(include_top=False)
        body.trainable = False
        tail = [self.L.BatchNormalization(), self.L.Conv2D(4, 3), self.L.BatchNormalization()]
        return self.functional(body, *tail, self.L.GlobalAveragePooling2D(), self.L.Dense(2))

    def frozen(self, **options):
        model = with_new_head(self.net(), 3)
        freeze(model, **options)
        return model

    def grey(self):
        grey = self.keras.Input((32, 32, 1))
        rgb = self.L.Concatenate()([grey, grey, grey])
        return self.keras.Model(grey, self.L.Dense(2)(self.body()(rgb)))

    def custom_scaling(self):
        scaled = self.L.Lambda(lambda x: x / 127.5 - 1.0)
        return self.functional(scaled, self.net(include_preprocessing=False))

    def adapted(self):
        norm = self.L.Normalization()
        norm.adapt(RAW.astype("float32"))
        return self.wrap(norm, self.net(include_preprocessing=False))

    def applications(self):
        """Their order: Rescaling, Normalization, and another Rescaling with ImageNet weights."""
        front = [self.L.Rescaling(1 / 255), self.L.Normalization(), self.L.Rescaling([2.1, 2, 2])]
        return self.wrap(*front, self.net(include_preprocessing=False))

    def video(self):
        frames = self.L.TimeDistributed(self.body())
        return self.functional(frames, self.L.GlobalAveragePooling1D(), shape=(4, *S))

    def segmentation(self):
        up = [self.L.UpSampling2D(4), self.L.Conv2D(2, 1, activation="softmax")]
        return self.functional(self.net(include_top=False), *up)

    def mixed(self):
        self.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        return self.net()

    def channels_first(self):
        self.keras.backend.set_image_data_format("channels_first")
        return self.net(input_shape=(3, 32, 32))

    def other_evaluation(self):
        front = self.L.Resizing(64, 64)
        body = self.net(input_shape=None, preprocessing=Preprocessing(64, None, "bilinear"))
        return self.functional(front, body)

    def compiled(self, loss, **options):
        model = self.net(**options)
        model.compile("sgd", loss)
        return model

    def compiled_outputs(self):
        model = self.two_outputs()
        model.compile("sgd", ["sparse_categorical_crossentropy", "mse"])
        return model

    def losses(self, name, **options):
        return getattr(self.keras.losses, name)(**options)

    def divided(self):
        inputs = self.keras.Input(S)
        return self.keras.Model(inputs, self.net(include_preprocessing=False)(inputs / 127.5 - 1.0))

    def plain_cnn(self, *front):
        layers = [*front, self.L.Conv2D(4, 3), self.L.GlobalMaxPooling2D(), self.L.Dense(3)]
        return self.wrap(*layers)

    def table(self):
        layers = [self.L.Normalization(mean=[0.0] * 4, variance=[1.0] * 4), self.L.Dense(1)]
        return self.wrap(*layers, shape=(4,))

    def text(self):
        inputs = self.keras.Input((6,), dtype="int32")
        x = self.L.GlobalAveragePooling1D()(self.L.Embedding(100, 4)(inputs))
        model = self.keras.Model(inputs, self.L.Dense(1, activation="sigmoid")(x))
        model.compile("sgd", "binary_crossentropy")
        return model

    def autoencoder(self):
        layers = [self.L.Rescaling(1 / 255), self.L.Conv2D(4, 3, padding="same")]
        model = self.wrap(*layers, self.L.Conv2D(3, 3, padding="same"), self.L.Rescaling(255.0))
        model.compile("sgd", "mse")
        return model

    def unreadable(self):
        class Broken(self.keras.Model):
            def _lost(self, *value):
                if not value:
                    raise KeyError("lost")

            outputs = property(_lost, _lost)
            output_names = property(lambda self: 1 / 0, lambda self, names: None)  # Keras 2 sets it

        return Broken()

    def separate_softmax(self):
        logits = self.net(classifier_activation=None)
        model = self.wrap(logits, self.L.Dropout(0.1), self.L.Softmax())
        model.compile("sgd", "categorical_crossentropy")
        return model

    def float32_outputs(self):
        softmax = self.wrap(self.net(classifier_activation=None), self.L.Softmax())
        model = self.wrap(softmax, self.L.Activation("linear", dtype="float32"))
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    def embedding(self):
        return self.wrap(self.body(), self.L.Dense(8), self.L.UnitNormalization())

    def scaled_embedding(self):
        class Scale(self.L.Layer):
            def build(self, shape):
                self.factor = self.add_weight(shape=(shape[-1],), name="factor")

            def call(self, x):
                return self.factor * x

        return self.wrap(self.body(), self.L.Dense(8), Scale())

    def metric_learning(self):
        model = self.wrap(self.body(), self.L.Dense(8))
        model.compile("sgd", lambda true, embeddings: 0.0)
        return model

    def called_in_inference(self):
        base = self.functional(self.L.Conv2D(4, 3, trainable=False), self.L.BatchNormalization())
        inputs = self.keras.Input(S)
        scaled = self.L.Rescaling(1 / 127.5, offset=-1)(inputs)
        pooled = self.L.GlobalAveragePooling2D()(base(scaled, training=False))
        return self.keras.Model(inputs, self.L.Dense(3, activation="softmax")(pooled))


def row(build, batch=RAW, **options):
    return build, batch, options


CORRECT = {
    "uint8": row(lambda m: m.net(), labels=[0, 2]),
    "float32": row(lambda m: m.net(), RAW.astype("float32"), labels=np.array([0, 2])),
    "float16": row(lambda m: m.net(), RAW.astype("float16")),
    "list": row(lambda m: m.net(), [RAW], labels=[[0], [2]]),
    "tuples of images": row(lambda m: m.net(), RAW.tolist()),
    "labels (n, 1)": row(lambda m: m.net(), labels=np.array([[0], [2]], "uint8")),
    "one-hot": row(lambda m: m.net(), labels=np.eye(3)[:2]),
    "smoothed labels": row(lambda m: m.net(), labels=np.full((2, 3), 1 / 3)),
    "float labels": row(lambda m: m.net(), labels=np.array([0.0, 2.0])),
    "class names": row(lambda m: m.net(), labels=[0, 1], class_names=("a", "b", "c")),
    "no labels": row(lambda m: m.net(), labels=[]),
    "logits": row(lambda m: m.net(classifier_activation=None), labels=[0, 2]),
    "binary": row(
        lambda m: m.net(classes=1, classifier_activation="sigmoid"),
        labels=[0, 1],
        class_names=["no", "yes"],
    ),
    "binary labels (n, 1)": row(
        lambda m: m.net(classes=1, classifier_activation="sigmoid"), labels=[[0.0], [1.0]]
    ),
    "binary bool": row(
        lambda m: m.net(classes=1, classifier_activation="sigmoid"), labels=[True, False]
    ),
    "regression": row(lambda m: m.net(classes=1, classifier_activation=None), labels=[-3.5, 120]),
    "several numbers": row(
        lambda m: m.net(classes=4, classifier_activation=None), labels=[[0.5, -2, 9, 300]] * 2
    ),
    "multi-label": row(
        lambda m: m.net(classifier_activation="sigmoid"), labels=[[1, 1, 0], [0, 0, 0]]
    ),
    "backbone": row(lambda m: m.body()),
    "feature maps": row(lambda m: m.net(include_top=False, input_shape=None)),
    "any size": row(lambda m: m.net(input_shape=(None, None, 3))),
    "not square": row(
        lambda m: m.net(input_shape=(32, 48, 3)), RAW[:, :, [*range(32), *range(16)]]
    ),
    "grey": row(lambda m: m.grey(), RAW[..., :1]),
    "one channel": row(lambda m: m.net(input_shape=(32, 32, 1)), RAW[..., :1]),
    "five channels": row(lambda m: m.net(input_shape=(32, 32, 5)), RAW[..., [0, 1, 2, 0, 1]]),
    "channels first": row(lambda m: m.channels_first(), RAW.transpose(0, 3, 1, 2)),
    "two inputs": row(lambda m: m.two_inputs(), [RAW, RAW], labels=[0, 1]),
    "two inputs by name": row(lambda m: m.two_inputs(), {"b": RAW, "a": RAW}),
    "image and table": row(lambda m: m.image_and_table(), (RAW, np.ones((2, 4)))),
    "side by side": row(lambda m: m.side_by_side(), labels=[[0], [1]]),
    "two outputs": row(lambda m: m.two_outputs(), labels=[[0, 3], [30.5, 80]]),
    "two outputs by name": row(
        lambda m: m.two_outputs(), labels={"age": [30.5, 80], "kind": [[0], [3]]}
    ),
    "subclassed": row(lambda m: m.subclassed(), labels=[0, 2], class_names=["a", "b", "c"]),
    "sequential": row(lambda m: m.wrap(m.body(), m.L.Dense(2)), labels=[0, 1]),
    "functional": row(lambda m: m.functional(m.body(), m.L.Dense(2)), labels=[0, 1]),
    "nested twice": row(lambda m: m.nested_twice(), labels=[0, 2]),
    "[0, 1] pixels": row(lambda m: m.wrap(m.L.Rescaling(255.0), m.net()), UNIT),
    "rescaling in front": row(
        lambda m: m.wrap(m.L.Rescaling(1 / 127.5, -1), m.net(include_preprocessing=False))
    ),
    "normalized pixels": row(lambda m: m.net(include_preprocessing=False), 4 * UNIT - 2),
    "lambda in front": row(lambda m: m.custom_scaling()),
    "adapted": row(lambda m: m.adapted()),
    "as keras.applications": row(lambda m: m.applications()),
    "augmentation": row(lambda m: m.wrap(m.L.RandomFlip(), m.L.RandomRotation(0.1), m.net())),
    "resizing": row(lambda m: m.other_evaluation()),
    "16 bits": row(
        lambda m: m.wrap(m.L.Rescaling(1 / 32768, -1), m.net(include_preprocessing=False)),
        RAW.astype("uint16") * 257,
    ),
    "scaled outputs": row(lambda m: m.functional(m.body(), m.L.Dense(1), m.L.Rescaling(100.0))),
    "frozen": row(lambda m: m.frozen()),
    "partly frozen": row(lambda m: m.frozen(up_to="block1")),
    "batch norm in the head": row(lambda m: m.frozen_with_batch_norm()),
    "convolution in the head": row(lambda m: m.frozen_with_convolution()),
    "video": row(lambda m: m.video(), np.stack([RAW] * 4, 1)),
    "segmentation": row(lambda m: m.segmentation(), labels=np.zeros((2, 32, 32), int)),
    "mixed precision": row(lambda m: m.mixed(), labels=[0, 2]),
    "compiled": row(lambda m: m.compiled("sparse_categorical_crossentropy"), labels=[[0], [2]]),
    "compiled, one-hot": row(
        lambda m: m.compiled("categorical_crossentropy"), labels=np.eye(3)[:2]
    ),
    "compiled, logits": row(
        lambda m: m.compiled(
            m.losses("SparseCategoricalCrossentropy", from_logits=True), classifier_activation=None
        ),
        labels=np.array([0, 2]),
    ),
    "compiled, multi-label": row(
        lambda m: m.compiled("binary_crossentropy", classifier_activation="sigmoid"),
        labels=np.eye(3)[:2],
    ),
    "compiled, binary": row(
        lambda m: m.compiled(
            m.losses("BinaryCrossentropy"), classes=1, classifier_activation="sigmoid"
        ),
        labels=[0, 1],
    ),
    "compiled, regression": row(
        lambda m: m.compiled("mse", classes=1, classifier_activation=None), labels=[-1.5, 300.0]
    ),
    "compiled, own loss": row(lambda m: m.compiled(lambda true, scores: 0.0), labels=[0, 2]),
    "compiled, two outputs": row(
        lambda m: m.compiled_outputs(), labels=[np.array([0, 3]), np.array([3.5, 9.0])]
    ),
    "softmax as a layer": row(lambda m: m.separate_softmax(), labels=np.eye(3)[:2]),
    "float32 outputs": row(lambda m: m.float32_outputs(), labels=[0, 2]),
    "embedding": row(lambda m: m.embedding(), labels=[0, 99]),
    "embedding, scaled": row(lambda m: m.scaled_embedding(), labels=[0, 99]),
    "embedding, own loss": row(lambda m: m.metric_learning(), labels=[0, 99]),
    "embedding, relu": row(
        lambda m: m.wrap(m.body(), m.L.Dense(8, activation="relu")), labels=[0, 99]
    ),
    "features": row(lambda m: m.body(), labels=[0, 99_999]),
    "frozen up to a batch norm, called in inference": row(lambda m: m.called_in_inference()),
    "black images": row(lambda m: m.net(), np.zeros((2, *S))),
    "divided by operations": row(lambda m: m.divided()),
    "mean subtracted": row(
        lambda m: m.net(include_preprocessing=False), RAW[..., ::-1] - np.float32([104, 117, 124])
    ),
    "plain": row(lambda m: m.plain_cnn(m.L.Rescaling(1 / 255)), labels=[0, 2]),
    "plain, batch norm first": row(lambda m: m.plain_cnn(m.L.BatchNormalization())),
    "grey without channel": row(lambda m: m.net(input_shape=(32, 32, 1)), RAW[..., 0]),
    "table": row(lambda m: m.table(), np.ones((2, 4)), labels=[0.5, 2.5]),
    "text": row(lambda m: m.text(), np.ones((2, 6), int), labels=[0, 1]),
    "autoencoder": row(lambda m: m.autoencoder(), labels=RAW),
}


@pytest.fixture
def models(keras, tiny):
    return Models(keras, tiny)


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_model_and_batch_have_no_findings(models, name):
    build, batch, options = CORRECT[name]
    model = build(models)
    assert check_model(model, batch, **options) == []
    assert check_model(model) == []


class Unreadable:
    """Data that fails when it is read."""

    def __array__(self, *arguments, **options):
        raise RuntimeError("closed")


def test_no_batch_and_no_labels_of_any_kind_raise(models, keras):
    odd = [
        *(None, 3, "x", "abc", b"x", [], [[]], {}, {"a": RAW}, (RAW, [0, 1]), [RAW, RAW], object()),
        *(Unreadable(), {"x": Unreadable()}, [Unreadable()], range(3), np.ma.masked_array([1, 2])),
        *([[1, 2], [3]], np.zeros((0, *S)), RAW > 9, RAW * 1j, RAW.astype(str), RAW.astype(object)),
        *(np.full((2, *S), np.nan), RAW[0], RAW[None], RAW[..., 0], RAW[:, :9], float("nan")),
        *(np.zeros((2, 0)), [None, 1], ["cat", "dog"], [[0, 1], None], np.array([np.inf, 1.0])),
        iter([RAW]),
    ]
    subclassed = type("Mine", (keras.Model,), {})()
    built = [models.net(), models.two_inputs(), models.two_outputs(), models.subclassed()]
    built += [models.text(), models.table(), models.compiled_outputs(), models.unreadable()]
    for model in [
        *built,
        subclassed,
        keras.Sequential(),
        keras.Sequential([keras.layers.Dense(2)]),
    ]:
        for given in odd:
            assert isinstance(check_model(model, given), list)
            assert isinstance(check_model(model, labels=given), list)
            assert isinstance(check_model(model, RAW, class_names=given), list)
