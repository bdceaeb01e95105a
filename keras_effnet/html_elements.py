"""HTML and CSS of a report: one page without network access, scripts or other files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

_CSS = """
:root { color-scheme: light dark; --bg: #f7f7f5; --card: #fff; --ink: #1c2127; --soft: #59626e;
  --line: #e2e4e7; --first: #8d97a5; --second: #0f766e; --good: #15703a; --bad: #b3261e;
  --warn: #9a5b00; --grid: #eceef0; }
@media (prefers-color-scheme: dark) { :root { --bg: #13161a; --card: #1b1f25; --ink: #e7e9ec;
  --soft: #9da7b3; --line: #2c323a; --first: #77828f; --second: #2fb8a6; --good: #57c785;
  --bad: #ff8a80; --warn: #e8b04b; --grid: #262b32; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .25rem; letter-spacing: -.01em; }
p { margin: .25rem 0 .9rem; max-width: 46rem; }
.soft, small { color: var(--soft); }
.lead { font-size: 1.1rem; margin-top: 1rem; max-width: 50rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17.5rem, 1fr)); gap: .9rem;
  margin: 1.4rem 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .7rem;
  padding: .95rem 1.1rem; min-width: 0; overflow-wrap: anywhere; }
.card h3 { margin: 0; font-size: .82rem; font-weight: 600; color: var(--soft); }
.card .value { font-size: 1.75rem; font-weight: 650; line-height: 1.25; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.card .details { font-size: .9rem; font-variant-numeric: tabular-nums; }
.card .details span { display: inline-block; }
.card p { margin: .45rem 0 0; font-size: .9rem; color: var(--soft); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: .7rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .9rem; text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
th { font-weight: 600; color: var(--soft); }
thead th { border-bottom: 1px solid var(--line); }
tbody th { color: var(--ink); font-weight: 500; }
.n { text-align: right; white-space: nowrap; }
.wide table { min-width: 44rem; }
.beside { display: flex; flex-wrap: wrap; gap: .9rem; align-items: flex-start; }
.beside > * { flex: 1 1 22rem; min-width: 0; }
.wrap { display: inline-block; white-space: normal; max-width: 19rem; overflow-wrap: anywhere; }
.plot { background: var(--card); border: 1px solid var(--line); border-radius: .7rem;
  padding: 1rem 1.1rem .8rem; font-size: .82rem; font-variant-numeric: tabular-nums; }
.row { display: grid; grid-template-columns: 5.2rem 1fr 4.2rem; gap: .7rem; align-items: center; }
.row > :last-child { text-align: right; }
.track { position: relative; height: 1.15rem; }
.track .line { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--grid); }
.track .bar { position: absolute; left: 0; top: .22rem; bottom: .22rem; border-radius: 2px;
  background: var(--second); }
.track .bar.low { background: var(--warn); }
.track .bar.off { background: var(--first); }
.track .dot { position: absolute; top: .1rem; bottom: .1rem; width: 3px; margin-left: -1px;
  border-radius: 2px; background: var(--ink); }
.axis .track span { position: absolute; transform: translateX(-50%); color: var(--soft); }
.axis .track span:first-child { transform: none; }
.axis .track span:last-child { transform: translateX(-100%); }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin-top: .6rem; color: var(--soft); }
.key i { display: inline-block; width: .9rem; height: .65rem; border-radius: 2px;
  margin-right: .4rem; }
.key i.dot { width: 3px; height: .8rem; vertical-align: -.1rem; }
.stack { display: flex; height: 1.6rem; border-radius: .3rem; overflow: hidden; }
.stack i { display: block; min-width: 1px; }
.sizes { display: grid; grid-template-columns: auto 1fr auto; gap: .6rem .8rem;
  align-items: center; }
.shots { display: grid; gap: .9rem; grid-template-columns: repeat(5, 1fr); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .7rem;
  overflow: hidden; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--grid); }
figure img.small { image-rendering: pixelated; }
figcaption { padding: .6rem .8rem .75rem; font-size: .88rem; line-height: 1.35; }
figcaption small { display: block; font-size: .78rem; overflow-wrap: anywhere; }
figcaption div { display: flex; justify-content: space-between; gap: .5rem; margin-bottom: .4rem;
  font-variant-numeric: tabular-nums; }
figcaption b { font-weight: 600; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.tag { display: inline-block; border: 1px solid currentColor; border-radius: 1rem;
  padding: 0 .55rem; font-size: .78rem; font-weight: 600; white-space: nowrap;
  vertical-align: .08em; }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: .6rem; }
.head strong { font-size: 1.02rem; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font-size: .86em; overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; margin: 0;
  padding: .9rem 1.1rem; overflow-x: auto; font-size: .82rem; line-height: 1.45; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem;
  font-size: .85rem; color: var(--soft); }
@media (max-width: 34rem) { main { padding: 1.5rem 1rem 3rem; } h1 { font-size: 1.4rem; }
  .shots { grid-template-columns: repeat(2, 1fr); gap: .6rem; } .wrap { max-width: 7rem; }
  .n { white-space: normal; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .row { grid-template-columns: 4.3rem 1fr 3.7rem; gap: .5rem; }
  th, td { padding: .45rem .55rem; } table { font-size: .82rem; } }
@media print { body { background: #fff; } .card, figure, tr { break-inside: avoid; } }
"""

_HUES = ("var(--second)", "#c98a2b", "#4f7cac", "#8a5a83", "#5c6b7a", "#a3a9b1", "#c7ccd2")


def text(value) -> str:
    """A value as text, escaped for HTML."""
    return html.escape(str(value))


def document(title: str, body: str, generator: str) -> str:
    """A complete HTML page; `generator` names the command that writes it."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="generator" content="{text(generator)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def section(title: str, meaning: str, body: str) -> str:
    """A heading, an explanation (HTML) and the content (HTML)."""
    return f"<section>\n<h2>{text(title)}</h2>\n<p class=soft>{meaning}</p>\n{body}\n</section>"


def card(title: str, value: str, details: Sequence[str], meaning: str) -> str:
    """One metric with details, e.g. its confidence interval, and an explanation. Lines break only
    between the details.
    """
    spans = " ".join(f"<span>{text(detail)}</span>" for detail in details)
    spans = f"<div class=details>{spans}</div>" if details else ""
    return (
        f"<div class=card><h3>{text(title)}</h3><div class=value>{text(value)}</div>{spans}"
        f"<p>{text(meaning)}</p></div>"
    )


def table(header, rows, numbers=()) -> str:
    """A table of HTML cells; the columns `numbers` are right-aligned. A table of five columns or
    more scrolls on small screens.
    """

    def cells(values, tag):
        row = ""
        for i, value in enumerate(values):
            kind = "th" if tag == "th" or i == 0 else "td"
            row += f"<{kind}{' class=n' if i in numbers else ''}>{value}</{kind}>"
        return f"<tr>{row}</tr>"

    body = "\n".join(cells(row, "td") for row in rows)
    wide = " wide" if len(header) > 4 else ""
    head = f"<thead>{cells(header, 'th')}</thead>\n" if any(header) else ""
    return f'<div class="scroll{wide}"><table>{head}<tbody>{body}</tbody></table></div>'


def bars(rows, top, unit, key, exact) -> str:
    """Horizontal bars on a common scale from 0 to `top`.

    Args:
        rows: (name, value, second value, tooltip, low) of every bar; the second value is drawn as a
            mark, a low bar gets another colour.
        top: end of the scale.
        unit: of the values.
        key: HTML that explains bar, colour and mark.
        exact: values from here on are shown as "exact".
    """
    ticks = range(0, int(top) + 1, 10 if top <= 50 else 20)
    lines = "".join(f'<span class=line style="left:{100 * t / top:.2f}%"></span>' for t in ticks)
    bars = []
    for name, value, other, tip, low in rows:
        width, mark = (min(100, max(0, 100 * v / top)) for v in (value, other))
        shown = "exact" if value >= exact else f"{value:.1f} {unit}"
        dot = "" if other >= exact else f'<span class=dot style="left:{mark:.2f}%"></span>'
        bars.append(
            f'<div class=row title="{text(tip)}"><span>{text(name)}</span><div class=track>{lines}'
            f'<span class="bar{" low" if low else ""}" style="width:{width:.2f}%"></span>{dot}'
            f"</div><span>{shown}</span></div>"
        )
    axis = "".join(f'<span style="left:{100 * t / top:.2f}%">{t}</span>' for t in ticks)
    return (
        f"<div class=plot>{''.join(bars)}<div class='row axis'><span></span><div class=track>{axis}"
        f"</div><span class=soft>{unit}</span></div><div class=key>{key}</div></div>"
    )


def stacks(rows) -> str:
    """Stacked bars of (name, {part: bytes}) on one scale, with a legend. Parts that differ only
    after a comma have the same colour.
    """
    rows = [(name, _merged(sizes)) for name, sizes in rows]
    total = {part: n for _, sizes in rows for part, n in sizes.items()}
    parts = sorted(total, key=lambda part: -total[part])
    hue = {part: _HUES[min(i, len(_HUES) - 1)] for i, part in enumerate(parts)}
    longest = max(sum(sizes.values()) for _, sizes in rows)
    stacked = []
    for name, sizes in rows:
        segments = "".join(
            f'<i style="background:{hue[part]};width:{100 * n / longest:.3f}%" '
            f'title="{text(part)}: {n:,} bytes"></i>'
            for part, n in sizes.items()
        )
        stacked.append(
            f"<span>{text(name)}</span><div class=stack>{segments}</div>"
            f"<span>{sum(sizes.values()) / 1e6:.2f} MB</span>"
        )
    key = "".join(f'<span><i style="background:{hue[p]}"></i>{text(p)}</span>' for p in parts)
    return (
        f"<div class=plot><div class=sizes>{''.join(stacked)}</div><div class=key>{key}</div></div>"
    )


def _merged(sizes):
    merged = {}
    for part, n in sizes.items():
        name = part.split(",")[0]
        merged[name] = merged.get(name, 0) + n
    return merged


def picture(image) -> str:
    """An <img> of a uint8 image (height, width, 3 or 1), with its pixels in the page: at most
    224 a side, as JPEG; PNG for small images.
    """
    from PIL import Image  # here: importing the package must not need Pillow

    thumbnail = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small = max(thumbnail.size) <= 96
    thumbnail.thumbnail((224, 224))
    buffer = io.BytesIO()
    if small:
        thumbnail.save(buffer, "png", optimize=True)
    else:
        thumbnail.save(buffer, "jpeg", quality=85)
    kind = " class=small" if small else ""
    return f'<img{kind} alt="" src="{_data_url(buffer.getvalue(), "png" if small else "jpeg")}">'


def plot(png: bytes) -> str:
    """A plot of the page's width."""
    return f'<img alt="" style="max-width:100%" src="{_data_url(png, "png")}">'


def _data_url(content, media):
    return f"data:image/{media};base64,{base64.b64encode(content).decode()}"
