"""Single image operations of input_pipeline.py's contenders, as endless iterators of batches."""

SIZE, BATCH = 224, 20
# Of the operations at magnitude 10 (Solarize at 5: at 10 it would do nothing)
ARGUMENTS = {
    **{"AutoContrast": None, "Equalize": None, "Invert": None, "Rotate": 30.0, "Posterize": 4},
    **{"Solarize": 128, "Color": 1.9, "Contrast": 1.9, "Brightness": 1.9, "Sharpness": 1.9},
    **{"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 100.0, "TranslateY": 100.0, "Cutout": 40},
    **{"SolarizeAdd": 110},
}
_SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def operation_of(contender, name, files):
    """An endless iterator of batches of one image after one operation, without decoding."""
    import tensorflow as tf

    image = tf.io.decode_jpeg(tf.io.read_file(files[0]), channels=3)
    image = tf.cast(tf.image.resize(image, [SIZE, SIZE]), tf.uint8)
    run = _identity if name is None else _operations_of(contender)[name]
    argument = ARGUMENTS.get(name)

    def example(_):
        pixels = tf.ensure_shape(image, [SIZE, SIZE, 3])
        if name not in _SIGNED:
            return run(pixels, argument)
        return run(pixels, tf.where(tf.random.uniform([]) < 0.5, -argument, argument))

    example = tf.autograph.experimental.do_not_convert(example)
    data = tf.data.Dataset.range(10**9).map(example, tf.data.AUTOTUNE)
    return endless(data.batch(BATCH))


def _identity(image, argument):
    return image


def _operations_of(contender):
    if contender == "official":
        from official_randaugment import make_operations

        return make_operations()
    import tensorflow as tf

    from tpu_train.input_pipeline import image_ops

    return {
        "AutoContrast": lambda image, _: image_ops.autocontrast(image),
        "Equalize": lambda image, _: image_ops.equalize(image),
        "Invert": lambda image, _: image_ops.invert(image),
        "Rotate": image_ops.rotate,
        "Posterize": image_ops.posterize,
        "Solarize": image_ops.solarize,
        "Color": image_ops.color,
        "Contrast": image_ops.contrast,
        "Brightness": image_ops.brightness,
        "Sharpness": image_ops.sharpness,
        "ShearX": image_ops.shear_x,
        "ShearY": image_ops.shear_y,
        "TranslateX": image_ops.translate_x,
        "TranslateY": image_ops.translate_y,
        "Cutout": lambda image, half: image_ops.cutout(image, half, tf.random.uniform([2])),
        "SolarizeAdd": image_ops.solarize_add,
    }


def endless(data):
    """An iterator of a dataset on one thread."""
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return iter(data.with_options(options))
