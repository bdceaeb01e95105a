"""Makes a trained network wider and deeper without changing its outputs: B1 to B3 from a B0.

Net2Net (Chen et al. 2015, arXiv 1511.05641), for networks that would take too long to train from
scratch. Comparing the two variants' plans stage by stage gives what is added:

- An additional channel is a copy of an existing one, selected by the seed; every layer that reads
  it divides its kernel by the number of copies. A little noise on the copies' kernels lets them
  diverge in training.
- An additional block starts as the identity: the scale and shift of its last batch norm are 0. Its
  other weights are copied from the block before it, or random if that is the first of its stage and
  has other shapes.

The script compares the logits of both networks before the noise and writes the noisy one, which is
then trained for an epoch or less, with its existing classifier, and without RandAugment unless it
was trained with it, because the time is too short to learn it:

    python tools/grow.py --from=small.keras --model=efficientnet-b3 --out=grown.keras
    effnet-train --recipe=photos --model=efficientnet-b3 --weights=grown.keras \
        --zero_init_classifier=false --data=cifar10 --phases=1 --image_size_first=64 \
        --image_size_last=64 --image_size_eval=64 --augment=none --mixup_last=0 \
        --random_crop_min_area=0.6 --dropout_first=0.1 --dropout_last=0.1 --drop_path_first=0 \
        --drop_path_last=0 --batch_size=64 --learning_rate=0.001 --warmup_epochs=0.1 \
        --ema_decay=0.995 --epochs=1 --workdir=b3

`--from` is a `.keras` file of a complete network of either family, from keras.applications or from
this package. Its variant is recognized by its layers.
"""

import argparse
import itertools
import os
import re

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

TOLERANCE = 1e-4  # of the largest logit; float32 sums in another order differ by about 1e-6
_TELLING = (
    "stem_conv",
    "top_conv",
    "_project_conv",
    "_se_reduce",
)  # their filters identify a variant


def grow(stored, small, large, fresh, *, seed=0, noise=0.0):
    """{layer name: arrays} for the plan `large`, with the same outputs as `stored` for `small`.

    `stored` are a trained network's arrays of the plan `small`; `fresh` are the large network's
    random weights, for blocks that have nothing to copy. `noise` is the standard deviation of the
    noise on copied kernels, relative to the kernel's; it changes the outputs a little. Raises
    ``ValueError`` if `large` is not `small` with more channels and more blocks.
    """
    _check_alike(small, large)
    grown = dict(fresh)
    grower = _Grower(stored, grown, large.depthwise_name, np.random.default_rng(seed), noise)
    stream = grower.conv_bn("stem", "stem", np.arange(3), large.stem_filters)
    for old_stage, new_stage in zip(_stages(small), _stages(large)):
        out = grower.wider(old_stage[0].out_filters, new_stage[0].out_filters)
        for old, new in itertools.zip_longest(old_stage, new_stage):
            if old is not None:
                grower.block(old, new, stream, out)
            else:
                if old_stage[-1].residual:  # else it has other shapes, and nothing to copy
                    grower.block(old_stage[-1], new, stream, out)
                gamma, beta, *statistics = grown[f"{new.name}_project_bn"]
                grown[f"{new.name}_project_bn"] = [0 * gamma, 0 * beta, *statistics]
            stream = out
    head = grower.conv_bn("top", "top", stream, large.head_filters)
    kernel, bias = stored["predictions"]
    grown["predictions"] = [kernel[head] / _copies(head)[:, None], bias]
    return grown


class _Grower:
    """Copies the small network's layers into `grown`, in the large network's shapes.

    A channel space is an array: for each channel, the small network's channel it is a copy of. It
    starts with the small network's channels, in order.
    """

    def __init__(self, stored, grown, depthwise_name, rng, noise):
        self.stored, self.grown, self.depthwise_name = stored, grown, depthwise_name
        self.rng, self.noise = rng, noise

    def wider(self, old, new):
        """A space of `new` channels that copy `old` ones."""
        if new < old:
            raise ValueError(f"{old} channels cannot become {new}: a network can only grow")
        more = self.rng.choice(old, new - old, replace=new - old > old)
        return np.concatenate([np.arange(old), more])

    def conv(self, old, new, into, out):
        """A convolution from the space `into` to `out`, with a bias if it has one."""
        kernel, *bias = self.stored[old]
        kernel = (kernel[:, :, into] / _copies(into)[:, None])[..., out]
        self.grown[new] = [self.parted(kernel, out, axis=3), *(b[out] for b in bias)]

    def batch_norm(self, old, new, space):
        self.grown[new] = [array[space] for array in self.stored[old]]

    def conv_bn(self, old, new, into, filters):
        """A convolution and its batch norm; returns the new space that they end in."""
        out = self.wider(self.stored[f"{old}_conv"][0].shape[3], filters)
        self.conv(f"{old}_conv", f"{new}_conv", into, out)
        self.batch_norm(f"{old}_bn", f"{new}_bn", out)
        return out

    def block(self, old, new, into, out):
        """A block of the plan, from the space `into` to `out`."""
        space = into
        if new.expands:
            names = f"{old.name}_expand", f"{new.name}_expand"
            space = self.conv_bn(*names, into, new.expand_filters)
        if new.op == "mbconv":
            kernel = self.stored[f"{old.name}_{self.depthwise_name}"][0][:, :, space]
            name = f"{new.name}_{self.depthwise_name}"
            self.grown[name] = [self.parted(kernel, space, axis=2)]
            self.batch_norm(f"{old.name}_bn", f"{new.name}_bn", space)
        if new.se_filters:
            squeezed = self.wider(old.se_filters, new.se_filters)
            self.conv(f"{old.name}_se_reduce", f"{new.name}_se_reduce", space, squeezed)
            self.conv(f"{old.name}_se_expand", f"{new.name}_se_expand", squeezed, space)
        self.conv(f"{old.name}_project_conv", f"{new.name}_project_conv", space, out)
        self.batch_norm(f"{old.name}_project_bn", f"{new.name}_project_bn", out)

    def parted(self, kernel, space, axis):
        """The kernel with noise on the copied channels, which would otherwise train identically."""
        copies = np.arange(len(space)) > space.max()
        noise = self.rng.standard_normal(kernel.shape, dtype="float32")
        noise *= np.float32(self.noise) * kernel.std()
        return kernel + noise * np.expand_dims(copies, [a for a in range(4) if a != axis])


def _copies(space):
    """For each channel of a space, the number of copies of its original channel."""
    return np.bincount(space)[space].astype("float32")


def _stages(plan):
    """A plan's blocks, one list per stage."""
    by_stage = itertools.groupby(plan.blocks, lambda b: re.match(r"block\d+", b.name)[0])
    return [list(blocks) for _, blocks in by_stage]


def _check_alike(small, large):
    """Raises ``ValueError`` if the plans differ in more than the number of channels and blocks."""
    old_stages, new_stages = _stages(small), _stages(large)
    counts = [[len(blocks) for blocks in stages] for stages in (old_stages, new_stages)]
    if len(counts[0]) != len(counts[1]) or any(new < old for old, new in zip(*counts)):
        raise ValueError(
            f"{large.name} cannot be grown from {small.name}: its stages have {counts[1]} blocks, "
            f"not {counts[0]} or more"
        )
    for old, new in ((a, b) for pair in zip(old_stages, new_stages) for a, b in zip(*pair)):
        for what in ("op", "kernel_size", "stride", "residual", "expands"):
            have, want = getattr(old, what), getattr(new, what)
            if have != want:
                raise ValueError(
                    f"{large.name} cannot be grown from {small.name}: {what} of {new.name} is "
                    f"{want}, not {have}"
                )
        if bool(old.se_filters) != bool(new.se_filters):
            raise ValueError(
                f"{large.name} cannot be grown from {small.name}: only one has squeeze-excite"
            )


def find_plan(stored):
    """The plan of the variant that has these {layer name: arrays}; ``ValueError`` if none has."""
    from keras_effnet import list_models, plan

    filters = {name: arrays[0].shape[-1] for name, arrays in stored.items()}
    for candidate in map(plan, list_models()):
        wanted = {"stem_conv": candidate.stem_filters, "top_conv": candidate.head_filters}
        for b in candidate.blocks:
            wanted[f"{b.name}_project_conv"] = b.out_filters
            if b.se_filters:
                wanted[f"{b.name}_se_reduce"] = b.se_filters
        if wanted == {n: f for n, f in filters.items() if n.endswith(_TELLING)}:
            return candidate
    raise ValueError("no variant has these layers; give a complete EfficientNet V1 or V2 model")


def difference(one, other, image_size):
    """The largest difference of two networks' outputs for eight images, relative to the largest
    output.
    """
    images = np.random.default_rng(0).uniform(0, 255, (8, image_size, image_size, 3))
    mine, others = (np.asarray(m(images.astype("float32"), training=False)) for m in (one, other))
    return float(abs(mine - others).max() / abs(mine).max())


def main(argv=None):
    """Grows, checks and writes a network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--from", dest="source", required=True, help="a trained .keras file")
    parser.add_argument("--model", required=True, help="variant to grow to, e.g. efficientnet-b3")
    parser.add_argument("--out", required=True, help=".keras file to write; it outputs logits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--noise", type=float, default=0.05, help="relative to a kernel's standard deviation"
    )
    options = parser.parse_args(argv)

    import keras

    from keras_effnet import create_model, plan
    from keras_effnet.pretrained.assign import assign_weights
    from keras_effnet.pretrained.files import read_weights

    source = keras.saving.load_model(options.source, compile=False)
    source.get_layer("predictions").activation = keras.activations.linear
    stored = read_weights(options.source, source.layers)
    small, large = find_plan(stored), plan(options.model)
    keras.utils.set_random_seed(options.seed)
    network = create_model(
        options.model,
        input_shape=source.input_shape[1:],
        classes=source.output_shape[-1],
        classifier_activation=None,
    )
    fresh = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    for noise in (0.0, options.noise):
        grown = grow(stored, small, large, fresh, seed=options.seed, noise=noise)
        assign_weights(network, grown, options.source)
        off = difference(source, network, source.input_shape[1])
        print(f"{small.name} -> {large.name}, noise {noise}: logits differ by {off:.1e}")
        if not noise and off > TOLERANCE:
            raise SystemExit(
                f"{off:.1e} is more than {TOLERANCE}: does {options.source} have {small.name}'s "
                "normalization and epsilon?"
            )
    network.save(options.out)


if __name__ == "__main__":
    main()
