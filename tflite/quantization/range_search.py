"""What is found by trying: the file is made, run on images and compared with the float network,
many times over (a conversion takes a tenth of a second).
"""

import copy
import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from tflite.evaluation import classifier, paired_statistics, sqnr
from tflite.flatbuffer import rewrite, runner
from tflite.flatbuffer.graph import LINEAR, Network

_FACTORS = (0.8, 1.25)  # that an end of a range is tried at
_GAIN = 0.01  # a change that takes less than this share off the divergence is not kept
_RUNS = 20  # of a latency, at least
_RUNS_MS = 200  # and as many as take so long
_GLANCE = 64  # images that every island is looked at with
_LEARNED = 512  # images, at most, that ranges, weights and biases hang on
_TRIMMED = 0.03  # of the images, the worst


class Objective:
    """How far a file's scores are from the float network's, on images of its own."""

    def __init__(self, float32_model, images):
        self.images = images
        self.model = classifier.open_classifier(float32_model)
        scores = classifier.scores(self.model, images)
        self.top = scores.argmax(-1)
        self.log = paired_statistics.log_probabilities(scores, self.model.ending)

    def first(self, count):
        """The judge by so many of the images."""
        fewer = copy.copy(self)
        fewer.images, fewer.top, fewer.log = (
            rows[:count] for rows in (self.images, self.top, self.log)
        )
        return fewer

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

        The file is one that was made of the float network here: it is not looked at otherwise.
        """
        _, (_, step, _) = rewrite.quantization(content)
        model = dataclasses.replace(self.model, content=content, step=step)
        try:
            scores = classifier.scores(model, self.images)
        except (RuntimeError, ValueError):
            return float("inf"), np.full(len(self.images), -1)
        log = paired_statistics.log_probabilities(scores, model.ending, step=model.step)
        each = np.sort(paired_statistics.divergences(self.log, log, self.model.ending))
        kept = each[: len(each) - int(_TRIMMED * len(each))]
        return float(kept.mean()), scores.argmax(-1)


def search_ranges(float32_model, ranges, make, judge, *, seconds):
    """Ranges with ends moved where that lowers the divergence, one tensor after the other, the one
    that rounding hurts most first; stops after so many seconds.

    Args:
        float32_model: bytes of the float .tflite.
        ranges: {tensor: {"min", "max"}} to begin with.
        make: function from ranges to the quantized file's bytes.
        judge: a :class:`Objective`.
        seconds: not to be exceeded by more than one tensor's trials.

    Returns (ranges, how many tensors were tried).
    """
    until = time.monotonic() + seconds
    network = Network(float32_model)
    sigmoids = {network.name(op.output) for op in network.operations if op.name == "LOGISTIC"}
    fixed = sigmoids | {network.name(network.input)}
    names = [network.name(op.output) for op in network.operations]
    names = [n for n in dict.fromkeys(names) if n in ranges and n not in fixed]
    best, tried = judge(make(ranges))[0], 0
    for name in _noisiest(float32_model, make(ranges), judge.images[:8], names):
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


def _noisiest(float32_model, content, images, names):
    """Names in the order of how little of their signal is left, the worst first."""
    rows = sqnr.sqnr_by_block(
        classifier.open_classifier(float32_model), classifier.open_classifier(content), images
    )
    noise = {tensor.name: tensor.sqnr_db for row in rows for tensor in row.tensors}
    return sorted(names, key=lambda name: noise.get(name, 999.0))


@dataclass(frozen=True)
class Float32Region:
    """Operations that may stay in float32 in the midst of int8."""

    name: str
    outputs: "tuple[str, ...]"  # the tensors that they write
    kl: float  # nats that they add to the divergence when they alone are int8
    latency_ms: float  # that float32 costs, one thread
    why: str = ""


def islands(float32_model, plan):
    """{name: outputs} of what may stay float together: each block, all squeeze-excite branches, all
    residual additions, the scores' layer.
    """
    network = Network(float32_model)
    int8 = {op.output for op in plan.ops if op.precision == "int8"}
    found = {}
    for op in network.operations:
        name = network.name(op.output)
        if name not in int8:
            continue
        group = sqnr.group_of(name) or "the rest"
        found.setdefault(group, []).append(name)
        if "_se_" in name and "_se_excite" not in name:
            found.setdefault("squeeze-excite branches", []).append(name)
        if op.name == "ADD":
            found.setdefault("residual additions", []).append(name)
    last = [op for op in network.operations if op.name in LINEAR][-1:]
    for op in (op for op in last if network.name(op.output) in int8):
        found.setdefault("last layer", []).append(network.name(op.output))
    return {name: tuple(outputs) for name, outputs in found.items()}


def ranked_islands(plan, candidates, make, judge, *, seconds, say=lambda line: None):
    """[Float32Region, ...], those first that give most for their time.

    What a part adds to the divergence is seen with all others in float32. (With all others in int8
    it is a small difference of two large numbers that roundings elsewhere make jump by more.)

    Args:
        plan: the :class:`~tflite.quantization.quantizer.QuantPlan` to begin with.
        candidates: {name: outputs}, as ``islands`` gives them; parts may overlap.
        make: function from a plan to the quantized file's bytes.
        judge: a :class:`Objective`, of which a few images are used.
        seconds: those that nobody got to look at come last.
        say: called with a line of text for every candidate.
    """
    start, judge = make(plan), judge.first(_GLANCE)
    [base_ms] = latency_ms(start)
    runs = max(_RUNS, int(_RUNS_MS / base_ms))
    everything = {output for outputs in candidates.values() for output in outputs}
    until, looked = time.monotonic() + seconds, []
    for name, outputs in candidates.items():
        if looked and time.monotonic() > until:
            looked.append(Float32Region(name, outputs, 0.0, 0.0, "there was no time to look at it"))
            continue
        kl = judge(make(plan.with_floats(everything - set(outputs), name)))[0]
        before, after = latency_ms(start, make(plan.with_floats(outputs, name)), runs=runs)
        cost = max(after - before, 0.0)
        why = f"alone in int8 it makes a divergence of {kl:.5f}; float32 costs {cost:.2f} ms"
        looked.append(Float32Region(name, outputs, kl, cost, why))
        say(f"  {name}: {why}")

    ranked, floats = [], set()

    def worth(island):
        left = len(set(island.outputs) - floats) / len(island.outputs)
        return left * island.kl / max(island.latency_ms, 0.01 * base_ms)

    while looked:
        best = max(looked, key=worth)
        looked.remove(best)
        if not set(best.outputs) <= floats:
            ranked.append(best)
            floats.update(best.outputs)
    return ranked


def fewest_islands(plan, ranked, make, enough):
    """(the plan with as many of the first islands as it takes, those), or None where all of them
    are not enough.

    Args:
        plan: the :class:`~tflite.quantization.quantizer.QuantPlan` to begin with, which by itself is not enough.
        ranked: as ``ranked_islands`` gives them.
        make: function from a plan to the quantized file's bytes.
        enough: function from the file's bytes to whether the budget is met.
    """

    def with_first(count):
        found = plan
        for island in ranked[:count]:
            found = found.with_floats(island.outputs, f"island: {island.name}")
        return found

    low, high = 0, len(ranked)
    if not enough(make(with_first(high))):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if enough(make(with_first(middle))):
            high = middle
        else:
            low = middle
    return with_first(high), tuple(ranked[:high])


def latency_ms(*contents, runs=_RUNS):
    """[median time of one image on one thread, ...] of files, which take turns: the thread's own
    time, as that hangs less on what else the machine does.
    """
    return runner.latencies_ms(contents, runs, clock=time.thread_time)


def held_out(count):
    """(indices to learn from, indices to judge by) of so many images in an order of their own: half
    of 64 or more are learned from, and 512 at most; fewer serve for both.
    """
    everything = np.arange(count)
    if count < 64:
        return everything, everything
    learned = min(count - count // 2, _LEARNED)
    return everything[:learned], everything[learned:]
