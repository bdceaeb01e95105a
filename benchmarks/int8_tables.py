"""The results of int8.py as Markdown tables."""

import pathlib

PRESETS = ("int8", "int8_strict", "int8_mixed", "weight_only")
BASELINES = ("baseline tf", "baseline aeq")
STEPS = ("min-max", "ranges", "equalization", "weight rounding", "bias correction", "all")


def tables(results):
    """The Markdown of all tables."""
    lines = [
        "| network | file | top-1 float | top-1 | drop, points (95 %) | agreement | KL, nats "
        "| latency | size | accelerated | reference kernels |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, entry in results.items():
        for contender in (*BASELINES, *PRESETS):
            f = entry.get(contender)
            if f is None:
                continue
            if "error" in f:
                lines.append(f"| {kind} | {contender} | {f['error']} |")
                continue
            cells = [
                *(kind, contender, f"{f['float_top1']:.2%}", f"{f['top1']:.2%}"),
                f"{f['drop']:+.2f} ({f['drop_low']:+.2f} to {f['drop_high']:+.2f})",
                *(f"{f['agreement']:.2%}", f"{f['divergence']:.4f}"),
                f"{f['latency_ratio']:.2f}" if "latency_ratio" in f else "",
                f"1/{f['size_ratio']:.2f}",
                "fully" if f["fully_accelerated"] else "partly",
                f"{f['reference_kernels']:.2%}" if "reference_kernels" in f else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    kinds = [kind for kind, entry in results.items() if {"ablation", "int8"} <= set(entry)]
    if not kinds:
        return "\n".join(lines)
    lines += ["", "Each step alone on min-max ranges (`int8`), and all steps together:", ""]
    lines.append("| | " + " | ".join(f"{kind}: drop | agreement | KL" for kind in kinds) + " |")
    lines.append("|---" * (1 + 3 * len(kinds)) + "|")
    for step in STEPS:
        cells = []
        for kind in kinds:
            f = results[kind]["int8" if step == "all" else "ablation"]
            f = f if step == "all" else f.get(step)
            cells.append(f"{f['drop']:+.2f} | {f['agreement']:.2%} | {f['divergence']:.4f}")
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_doc(path, results):
    """Puts the tables between the markers of a Markdown file."""
    begin, end = "<!-- int8: begin -->\n", "<!-- int8: end -->"
    text = pathlib.Path(path).read_text(encoding="utf-8")
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    pathlib.Path(path).write_text(
        head + begin + tables(results) + "\n" + end + tail, encoding="utf-8"
    )
