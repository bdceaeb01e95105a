"""The sections of a report that show more than a number: blocks, images, bytes, delegates."""

import math

import numpy as np

from tflite.evaluation import delegates
from tflite.report import html_elements

_SHOWN = 10  # images that changed their answer
_LOW_DB = 10.0  # below: the error is more than a third of the signal
_CEILING_DB = 100.0  # beyond: rounding of float itself

_VERDICTS = {
    "all": ("good", "all ops"),
    "not all": ("bad", "not all ops"),
    "not known": ("warn", "not known"),
}


def blocks(comparison):
    """Signal and noise of every block, as HTML; "" where the files are not of the same graph."""
    rows = comparison.blocks
    if not rows:
        return ""
    first, second = (html_elements.text(t) for t in comparison.report.titles)
    finite = [b.sqnr_db for b in rows if b.sqnr_db < _CEILING_DB]
    top = 10 * math.ceil(max([30.0, *finite]) / 10)
    lowest = min(rows, key=lambda block: block.sqnr_db)
    meaning = (
        f"How far the values of {first} stand above the error of {second}, at the end of every "
        "block: 20 dB means an error of a tenth, 10 dB of a third, 0 dB as large as the values. "
        f"The lowest is {html_elements.text(lowest.name)}. The median of {comparison.snr_images} images."
    )
    rescaled = sum(tensor.rescaled for block in rows for tensor in block.tensors)
    if rescaled:
        meaning += (
            f" Tensors whose channels were rescaled on purpose (the next op undoes it) are brought "
            f"back first: {rescaled}."
        )
    key = (
        '<span><i style="background:var(--second)"></i>output of the block</span>'
        f'<span><i style="background:var(--warn)"></i>the same, below {_LOW_DB:.0f} dB</span>'
        '<span><i class=dot style="background:var(--ink)"></i>noisiest tensor within it</span>'
    )
    made = [
        (
            block.name,
            block.sqnr_db,
            block.worst.sqnr_db,
            f"{block.name}: output {block.sqnr_db:.1f} dB; worst {block.worst.sqnr_db:.1f} dB, "
            f"{block.worst.name.split(';')[0]}",
            block.sqnr_db < _LOW_DB,
        )
        for block in rows
    ]
    body = html_elements.bars(made, top, "dB", key, _CEILING_DB)
    return html_elements.section("Signal and noise, block by block", meaning, body)


def changed(r, images, class_names):
    """The images that a :class:`~tflite.evaluation.accuracy.Report` has with two answers, as HTML."""
    if not r.changed:
        return html_elements.section("Images that changed their answer", "There are none.", "")

    def name(index):
        named = class_names is not None and index < len(class_names)
        return class_names[index] if named else f"class {index}"

    figures = []
    for row in r.changed[:_SHOWN]:

        def line(title, index, score, label=row.label):
            mark = ""
            if label is not None:
                mark = (
                    "<span class=good title=right>&#10003;</span> "
                    if index == label
                    else "<span class=bad title=wrong>&#10007;</span> "
                )
            return (
                f"<small class=soft>{html_elements.text(title)}</small>"
                f"<div><b>{mark}{html_elements.text(name(index))}</b><span>{score:.0%}</span></div>"
            )

        label = f"label: {html_elements.text(name(row.label))}<br>" if row.label is not None else ""
        shown = "" if images is None else html_elements.picture(np.asarray(images[row.index]))
        figures.append(
            f"<figure>{shown}<figcaption>{line(r.titles[0], row.first, row.first_score)}"
            f"{line(r.titles[1], row.second, row.second_score)}"
            f"<small class=soft>{label}image {row.index:,}</small></figcaption></figure>"
        )
    kinds = [row.kind for row in r.changed]
    told = ""
    if r.changed[0].label is not None:
        told = (
            f" {kinds.count('right->wrong'):,} went from right to wrong, "
            f"{kinds.count('wrong->right'):,} from wrong to right, "
            f"{kinds.count('wrong->wrong'):,} from one wrong answer to another."
        )
    meaning = (
        f"{len(r.changed):,} of {r.images:,} images get another first answer.{told} Shown are "
        f"the {len(figures)} that {html_elements.text(r.titles[0])} was surest about, with its probability "
        "of its answer and the other's of its own: bad ones teach most. The JSON lists all."
    )
    body = f"<div class=shots>{''.join(figures)}</div>"
    return html_elements.section("Images that changed their answer", meaning, body)


def sizes(comparison):
    """Both files' bytes by part, as HTML."""
    r = comparison.report
    parts = dict.fromkeys([*comparison.parts[1], *comparison.parts[0]])
    rows = [
        [
            html_elements.text(part),
            *(f"{sizes[part]:,}" if part in sizes else "" for sizes in comparison.parts),
            f"{comparison.parts[1][part] / r.int8.size:.1%}" if part in comparison.parts[1] else "",
        ]
        for part in parts
    ]
    first, second = (html_elements.text(t) for t in r.titles)
    header = ["Part, bytes", first, second, f"of {second}"]
    body = html_elements.stacks(list(zip(r.titles, comparison.parts)))
    body += f'<div style="height:.9rem"></div>{html_elements.table(header, rows, (1, 2, 3))}'
    meaning = "Where the bytes are: almost all of them are the weights, so their type decides."
    return html_elements.section("Size by part", meaning, body)


def latency(r):
    """Both files' times at one and two threads, as HTML."""
    rows = []
    for threads, a, b, ratio in (
        (1, r.float32.latency_ms, r.int8.latency_ms, r.latency_ratio),
        (
            2,
            r.float32.latency_2_threads_ms,
            r.int8.latency_2_threads_ms,
            r.latency_ratio_2_threads,
        ),
    ):
        rows.append([f"{threads}", f"{a:.2f} ms", f"{b:.2f} ms", f"{ratio:.2f}"])
    first, second = (html_elements.text(t) for t in r.titles)
    header = ["Threads", first, second, f"{second} / {first}"]
    meaning = (
        "Median time of one image, both files in turns on this machine "
        f"({html_elements.text(r.machine)}). A ratio of 0.50 is twice as fast. Whatever else the machine "
        "does adds to the times, two threads of a busy one most of all."
    )
    return html_elements.section("Latency", meaning, html_elements.table(header, rows, (1, 2, 3)))


def by_delegate(comparison):
    """What every delegate does with the second file, as HTML."""
    r = comparison.report
    cards = []
    for first, second in zip(*comparison.delegates):
        style, verdict = _VERDICTS[second.verdict]
        missing = {**second.blocked, **second.unknown}
        listed = ", ".join(f"{op} ({n})" for op, n in missing.items())
        listed = f"<p>Not: <code>{html_elements.text(listed)}</code></p>" if listed else ""
        known = "<br>".join(
            f"<b>{k}</b>: {html_elements.text(source)}" for k, source in second.grounds
        )
        if style == "good" and second.grounds and second.grounds[-1][0] == delegates.RECALLED:
            style = "warn"
        cards.append(
            f"<div class=card><div class=head><strong>{html_elements.text(second.delegate)}</strong>"
            f"<span class='tag {style}'>{verdict}</span></div>"
            f"<small>{html_elements.text(second.hardware)}</small>{listed}"
            f"<p style='color:var(--ink)'>{html_elements.text(second.advice)}</p>"
            f"<p>{known}</p>"
            f"<p>{html_elements.text(r.titles[0])}: {_VERDICTS[first.verdict][1]}</p></div>"
        )
    meaning = (
        f"Which hardware can take every op of {html_elements.text(r.titles[1])}; what it does not take runs "
        'on the CPU. "measured" was tried on this machine, "documented" stands in the named source,'
        ' "recalled" has none and wants a check.'
    )
    body = f"<div class=cards>{''.join(cards)}</div>"
    return html_elements.section("Ops by delegate", meaning, body)
