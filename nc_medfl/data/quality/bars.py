"""Bar charts as inline SVG: no script, readable by a screen reader, the same bytes for the same counts."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 640, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 22, 34
#: Height of a bar whose count is withheld.
_WITHHELD = 12.0
_MOST_TICKS = 11


def bar_chart(
    name: str,
    title: str,
    ticks: Sequence[str],
    counts: Sequence[int | None],
    *,
    last_tick: str = "",
    joined: bool = False,
) -> Markup:
    """Draw counts as bars.

    Args:
        name: unique on the page.
        title: what is counted.
        ticks: under each bar, or at its left edge where bars are joined.
        counts: None where withheld: a hatched bar of a height that says nothing.
        last_tick: at the right edge of the last joined bar.
        joined: whether bars touch, as in a histogram.
    """
    top = max([count for count in counts if count], default=1)
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(counts))
    space = _HEIGHT - _TOP - _BOTTOM
    base = _HEIGHT - _BOTTOM
    parts = [_axis(base, space, top)]
    for k, count in enumerate(counts):
        height = _WITHHELD if count is None else space * count / top
        gap = 0.5 if joined else step * 0.12
        kind = "withheld" if count is None else "bar"
        fill = f' fill="url(#hatch-{escape(name)})"' if count is None else ""
        if count != 0:
            parts.append(
                f'<rect class="{kind}" x="{_LEFT + k * step + gap:.1f}" y="{base - height:.1f}" '
                f'width="{step - 2 * gap:.1f}" height="{height:.1f}"{fill}/>'
            )
    parts.append(_ticks(ticks, last_tick, step, base, joined))
    known = [f"{tick}: {count}" for tick, count in zip(ticks, counts, strict=True) if count]
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="t-{escape(name)} d-{escape(name)}">'
        f'<title id="t-{escape(name)}">{escape(title)}</title>'
        f'<desc id="d-{escape(name)}">{escape("; ".join(known) or "no counts to show")}</desc>'
        f'<defs><pattern id="hatch-{escape(name)}" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>'
        + "".join(parts)
        + "</svg>"
    )


def _axis(base: float, space: float, top: int) -> str:
    lines = []
    for value in sorted({0, top // 2, top}):
        y = base - space * value / top
        lines.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>')
    return "".join(lines)


def _ticks(ticks: Sequence[str], last_tick: str, step: float, base: float, joined: bool) -> str:
    every = max(1, -(-len(ticks) // _MOST_TICKS))
    shift = 0.0 if joined else step / 2
    out = [
        f'<text x="{_LEFT + k * step + shift:.1f}" y="{base + 16:.1f}" text-anchor="middle">{escape(tick)}</text>'
        for k, tick in enumerate(ticks)
        if k % every == 0
    ]
    if last_tick and len(ticks) % every == 0:
        x = _LEFT + len(ticks) * step
        out.append(f'<text x="{x:.1f}" y="{base + 16:.1f}" text-anchor="end">{escape(last_tick)}</text>')
    return "".join(out)
