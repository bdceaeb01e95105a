"""What is found by trying: the file is made, run on images and compared with the float network,
many times over (a conversion takes a tenth of a second).
"""

import time
from dataclasses import dataclass

import numpy as np

from tflite import blocks, classifier, litert, paired
from tflite.network import LINEAR, Network

_FACTORS = (0.8, 1.25)  # that an end of a range is tried at
_GAIN = 0.01  # a change that takes less than this share off the divergence is not kept
_RUNS = 20  # of a latency
_TRIMMED = 0.03  # of the images, the worst


class Judge:
    """How far a file's scores are from the float network's, on images of its own."""

    def __init__(self, float_tflite, images):
        self.images = images
        self.model = classifier.open_classifier(float_tflite)
        scores = classifier.scores(self.model, images)
        self.top = scores.argmax(-1)
        self.log = paired.log_probabilities(scores, self.model.ending)

    def __call__(self, content):
        """(KL(float || content) in nats, share of images with the same answer).

        The divergence is the mean over all images but the worst 3 in 100: a few images that
        overflow a range would else hide everything else.
        """
        divergence, top = self.look(content)
        return divergence, float((top == self.top).mean())

    def look(self, content):
        """(the divergence, the file's answers (images,)); infinity and -1 for a file that does not
        run: scales that are too far apart are beyond XNNPACK's kernels.
        """
        try:
            model = classifier.open_classifier(content)
        except ValueError:
            return float("inf"), np.full(len(self.images), -1)
        scores = classifier.scores(model, self.images)
        log = paired.log_probabilities(scores, model.ending, step=model.step)
        each = np.sort(paired.divergences(self.log, log, self.model.ending))
        kept = each[: len(each) - int(_TRIMMED * len(each))]
        return float(kept.mean()), scores.argmax(-1)


def search_ranges(float_tflite, ranges, make, judge, *, seconds):
    """Ranges with ends moved where that lowers the divergence, one tensor after the other, the one
    that rounding hurts most first; stops after so many seconds.

    Args:
        float_tflite: bytes of the float .tflite.
        ranges: {tensor: {"min", "max"}} to begin with.
        make: function from ranges to the quantized file's bytes.
        judge: a :class:`Judge`.
        seconds: not to be exceeded by more than one tensor's trials.

    Returns (ranges, how many tensors were tried).
    """
    until = time.monotonic() + seconds
    network = Network(float_tflite)
    sigmoids = {network.name(op.output) for op in network.operations if op.name == "LOGISTIC"}
    fixed = sigmoids | {network.name(network.input)}
    names = [network.name(op.output) for op in network.operations]
    names = [n for n in dict.fromkeys(names) if n in ranges and n not in fixed]
    best, tried = judge(make(ranges))[0], 0
    for name in _noisiest(float_tflite, make(ranges), judge.images[:8], names):
        if time.monotonic() > until:
            break
        tried += 1
        for end in ("max", "min"):
            for factor in _FACTORS:
                moved = {**ranges, name: {**ranges[name], end: ranges[name][end] * factor}}
                found = judge(make(moved))[0]
                if found < best * (1 - _GAIN):
                    best, ranges = found, moved
                    break
    return ranges, tried


def _noisiest(float_tflite, content, images, names):
    """Names in the order of how little of their signal is left, the worst first."""
    rows = blocks.signal_to_noise(
        classifier.open_classifier(float_tflite), classifier.open_classifier(content), images
    )
    noise = {tensor.name: tensor.snr_db for row in rows for tensor in row.tensors}
    return sorted(names, key=lambda name: noise.get(name, 999.0))


@dataclass(frozen=True)
class Island:
    """Operations that stay in float32 in the midst of int8."""

    name: str
    outputs: "tuple[str, ...]"  # the tensors that they write
    kl: float  # nats that they take off the divergence
    latency_ms: float  # that they cost, one thread
    why: str = ""


def islands(float_tflite, plan):
    """{name: outputs} of what may stay float together: each block, all squeeze-excite branches, all
    residual additions, the scores' layer.
    """
    network = Network(float_tflite)
    int8 = {op.output for op in plan.ops if op.precision == "int8"}
    found = {}
    for op in network.operations:
        name = network.name(op.output)
        if name not in int8:
            continue
        group = blocks.group_of(name) or "the rest"
        found.setdefault(group, []).append(name)
        if "_se_" in name and "_se_excite" not in name:
            found.setdefault("squeeze-excite branches", []).append(name)
        if op.name == "ADD":
            found.setdefault("residual additions", []).append(name)
    last = [op for op in network.operations if op.name in LINEAR][-1:]
    for op in (op for op in last if network.name(op.output) in int8):
        found.setdefault("last layer", []).append(network.name(op.output))
    return {name: tuple(outputs) for name, outputs in found.items()}


def search_islands(plan, candidates, make, judge, enough, *, seconds):
    """The plan with the float islands that a budget takes, the most gain for its time first.

    Args:
        plan: the :class:`~tflite.quantize.QuantPlan` to begin with.
        candidates: {name: outputs}, as ``islands`` gives them.
        make: function from a plan to the quantized file's bytes.
        judge: a :class:`Judge`.
        enough: function from the file's bytes to whether the budget is met.
        seconds: for the first look at the candidates.

    Returns (plan, [Island, ...], whether the budget is met).
    """
    start = make(plan)
    if enough(start):
        return plan, [], True
    base_kl, base_ms = judge(start)[0], latency_ms(start)[0]
    until, looked = time.monotonic() + seconds, []
    for name, outputs in candidates.items():
        if looked and time.monotonic() > until:
            break
        content = make(plan.with_floats(outputs, name))
        before, after = latency_ms(start, content)
        gain, cost = base_kl - judge(content)[0], max(after - before, 0.0)
        looked.append(Island(name, outputs, gain, cost))
    looked = [island for island in looked if island.kl > 0]
    looked.sort(key=lambda i: i.kl / max(i.latency_ms, 0.01 * base_ms), reverse=True)

    chosen, kl = [], base_kl
    for island in looked:
        trial = _with(plan, [*chosen, island])
        content = make(trial)
        found = judge(content)[0]
        if found > kl * (1 - _GAIN):
            continue  # what it gives, others gave already
        chosen.append(island)
        kl = found
        if enough(content):
            chosen = _pruned(plan, chosen, make, enough)
            return _with(plan, chosen), _told(chosen, base_kl), True
    return _with(plan, chosen), _told(chosen, base_kl), False


def latency_ms(*contents, runs=_RUNS):
    """[median time of one image on one thread, ...] of files, which take turns: the thread's own
    time, as that hangs less on what else the machine does.
    """
    made = [litert.interpreter(content) for content in contents]
    return litert.latencies_ms(made, runs, time.thread_time)


def _with(plan, chosen):
    for island in chosen:
        plan = plan.with_floats(island.outputs, f"island: {island.name}")
    return plan


def _pruned(plan, chosen, make, enough):
    """Without the islands that the later ones made needless, the dearest first."""
    for island in sorted(chosen, key=lambda i: -i.latency_ms):
        fewer = [other for other in chosen if other is not island]
        if fewer and enough(make(_with(plan, fewer))):
            chosen = fewer
    return chosen


def _told(chosen, base_kl):
    return [
        Island(
            i.name,
            i.outputs,
            i.kl,
            i.latency_ms,
            f"alone it takes {100 * i.kl / base_kl:.0f} % off the divergence of {base_kl:.4f} for "
            f"{i.latency_ms:.2f} ms",
        )
        for i in chosen
    ]


def held_out(count):
    """(indices to learn from, indices to judge by) of so many images in an order of their own: half
    of 64 or more are held out; of fewer all serve for both.
    """
    everything = np.arange(count)
    if count < 64:
        return everything, everything
    return everything[: count - count // 2], everything[count - count // 2 :]
