"""Plots as inline SVG that follows the page's light or dark theme.

Matplotlib draws in stand-in colours; each becomes a variable of the page's style sheet. Text stays text, so
that it can be searched and read at any size. Same numbers, same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
#: A tenth of a point is finer than any screen.
_LONG = re.compile(r"(\d+\.\d)\d+")

INK, MUTED, LINE, ACCENT, SURFACE = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05"
SERIES = tuple(f"#0b0b0{k}" for k in range(8))
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", SURFACE: "--surface"} | {
    colour: f"--c{k}" for k, colour in enumerate(SERIES)
}
MARKERS = "osD^vPXh"
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
)

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "nc_medfl",
    "svg.fonttype": "none",
    "svg.id": None,
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
}


def draw(name: str, alt: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> Markup:
    """Run ``paint`` on a new figure and give it as an SVG element."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Names in scripts that the drawing font lacks are shown in the reader's own font.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        stream = io.BytesIO()
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Type": None, "Format": None},
        )
    # Markup as it is: an XML library escaped every text in it.
    return Markup(_for_page(stream.getvalue(), name, alt))


def _for_page(svg: bytes, name: str, alt: str) -> str:
    """Make ids the figure's own, colours the page's, and say in words what is drawn."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for element in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(element)
    referenced = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg.decode()))
    for element in root.iter():
        _adapt(element, name, referenced)
    width = float(root.attrib.pop("width").removesuffix("pt")) * 4 / 3
    root.attrib.pop("height")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    root.set("style", f"max-width:{width:.0f}px")
    title = ElementTree.Element(f"{{{_SVG}}}title", {"id": f"{name}-title"})
    title.text = alt
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, name: str, referenced: set[str]) -> None:
    identifier = element.attrib.pop("id", None)
    if identifier in referenced:
        element.set("id", f"{name}-{identifier}")
    link = element.attrib.get(f"{{{_XLINK}}}href", "")
    if link.startswith("#"):
        element.set(f"{{{_XLINK}}}href", f"#{name}-{link[1:]}")
    if "clip-path" in element.attrib:
        element.set("clip-path", element.attrib["clip-path"].replace("url(#", f"url(#{name}-"))
    if len(element.attrib.get("d", "")) > 200:
        element.set("d", _LONG.sub(r"\1", element.attrib["d"]))
    style = element.attrib.get("style", "")
    if style:
        style = re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match.group()]})", style)
        style = re.sub(r"font: ([\d.]+px) [^;]+", r"font-size: \1", style)
        element.set("style", style)
