"""Style of all figures, and their SVG: text stays text, and colours follow those of the page.

One colour and one marker per framework, one line style per memory mode, the same in all figures.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.layout_engine import TightLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from scripts.report.text import bytes_text

# Okabe and Ito's palette, safe for colour-blind readers; in grey, markers tell frameworks apart.
COLOURS = {"numpy": "#0072b2", "numba": "#e69f00", "torch": "#d55e00", "jax": "#009e73", "triton": "#56b4e9"}
COLOURS["numba_cuda"] = COLOURS["numba"]
OTHER_COLOUR = "#cc79a7"
MARKERS = {"numpy": "o", "numba": "s", "torch": "^", "jax": "D", "triton": "v", "numba_cuda": "s"}
OTHER_MARKER = "X"
MODES = ("fresh", "out", "inplace")
LINES = {"fresh": ":", "out": "-", "inplace": "--"}
# Drawn in this colour, a line or text has the colour of the page's text.
INK = "#010203"
# Of text in figures, in pixels of the page.
FONT_PX = 12
# Distance between labels, from baseline to baseline.
APART_PX = 1.1 * FONT_PX
# matplotlib's points are pixels of the page.
DPI = 72
# The size in a font's shorthand, which is no attribute of SVG.
FONT_SIZE = re.compile(r"([\d.]+)px")
# Characters that XML forbids; names from result files may contain them.
FORBIDDEN = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
# Name of a group, before the text that is shown when the pointer rests on it.
TITLED = "titled="
# Names of groups that the page's script shows and hides, before the name of their row.
SHOWN, HIDDEN = "shown=", "hidden="
# Links of attributes to other elements.
LINKED = re.compile(r"url\(#([^)]+)\)|^#(.+)$")

sns.set_theme(
    style="ticks",
    rc={
        "svg.fonttype": "none", "svg.hashsalt": "relu-bench", "figure.dpi": DPI, "savefig.dpi": DPI,
        "savefig.transparent": True, "font.size": FONT_PX, "axes.labelsize": FONT_PX, "axes.titlesize": FONT_PX,
        "xtick.labelsize": FONT_PX, "ytick.labelsize": FONT_PX, "legend.fontsize": FONT_PX,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
        "grid.color": INK, "grid.alpha": 0.12, "axes.grid": True, "axes.spines.top": False,
        "axes.spines.right": False, "patch.edgecolor": "none", "legend.frameon": False,
    },
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A figure. name: of its files. title: says what it shows. svg: takes the colours of the page that it is in."""

    name: str
    title: str
    svg: str
    png: bytes

    @property
    def file(self) -> str:
        """The SVG as a file of its own, on white."""
        return self.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" style="background: #fff" ', 1)


def colour(framework: str) -> str:
    """The colour of a framework."""
    return COLOURS.get(framework, OTHER_COLOUR)


def rank(framework: str) -> int:
    """The position of a framework in lists; unknown ones come last."""
    return list(COLOURS).index(framework) if framework in COLOURS else len(COLOURS)


def finished(figure: plt.Figure, name: str, title: str) -> Figure:
    """Write and close a matplotlib figure."""
    # Figure.tight_layout would leave an engine in the figure, for which each savefig draws twice.
    TightLayoutEngine().execute(figure)
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    for artist in figure.findobj(lambda artist: (artist.get_gid() or "").startswith(HIDDEN)):
        artist.set_visible(False)
    figure.savefig(png, format="png", dpi=2 * DPI, transparent=False, metadata={"Software": None})
    plt.close(figure)
    return Figure(name, title, _for_page(svg.getvalue(), name, title), png.getvalue())


def log_bytes(axis: Axes) -> None:
    """Make the x axis one of bytes, in powers of two."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_text(value)))
    axis.xaxis.set_minor_locator(NullLocator())


def log_plain(axis: Axes) -> None:
    """Make the y axis logarithmic, with numbers as people write them."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Mark these values on an axis, and no others."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def apart(ends: dict[str, float], axis: Axes, along: Literal["x", "y"] = "y") -> dict[str, float]:
    """Places for labels near the ends of their lines, by name, at some distance from each other on a log axis.

    As many as there is room for stay between its limits, which must have been set. Labels along x are upright.
    """
    low, high = np.log(axis.get_ylim() if along == "y" else axis.get_xlim())
    step = APART_PX / (axis.bbox.height if along == "y" else axis.bbox.width) * (high - low)
    heights: dict[str, float] = {}
    least = low
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        heights[name] = max(float(np.log(end)), least)
        least = heights[name] + step
    most = high
    for name in reversed(heights):
        heights[name] = min(heights[name], most)
        most = heights[name] - step
    return {name: float(np.exp(height)) for name, height in heights.items()}


def label(
    axis: Axes, text: str, at: tuple[float, float], place: tuple[float, float], colour: str = INK
) -> tuple[Artist, Artist]:
    """Write a text beside a point, with a thin line between both. place: of the text, to the left or right."""
    (line,) = axis.plot([at[0], place[0]], [at[1], place[1]], color=colour, alpha=0.4, linewidth=0.8, zorder=1)
    # The layout of a figure leaves room for its axes only.
    written = axis.annotate(
        text, place, xytext=(4 if place[0] > at[0] else -4, 0), textcoords="offset points", color=INK,
        ha="left" if place[0] > at[0] else "right", va="center", parse_math=False, in_layout=False,
    )  # fmt: skip
    return line, written


def _for_page(text: str, name: str, title: str) -> str:
    """matplotlib's SVG for use within a page: no styles, and no names but those of the figure's own parts.

    Styles become attributes, so that a page may forbid styles. Groups named SHOWN and HIDDEN get data-row, those named
    TITLED a title.
    """
    root = ElementTree.fromstring(FORBIDDEN.sub("\ufffd", text))
    used = {match[1] or match[2] for e in root.iter() for v in e.attrib.values() if (match := LINKED.search(v))}
    for child in [*root.findall(f"{SVG}metadata"), *root.findall(f"{SVG}defs")]:
        if not used & {e.get("id") for e in child.iter()}:
            root.remove(child)
    for element in list(root.iter()):
        if element.get("id", "").startswith(TITLED):
            titled = ElementTree.Element("title")
            titled.text = element.attrib.pop("id").removeprefix(TITLED)
            element.insert(0, titled)
        element.tag = element.tag.removeprefix(SVG)
        attributes = dict(element.attrib)
        element.attrib.clear()
        for key, value in attributes.items():
            for new_key, new_value in _attributes(key, value, used, name):
                element.set(new_key, new_value)
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.update({"width": width, "height": height, "role": "img", "aria-label": title})
    return ElementTree.tostring(root, encoding="unicode")


def _attributes(key: str, value: str, used: set[str], name: str) -> list[tuple[str, str]]:
    """An attribute as it is in the page: none, one, or those of a style."""
    if key == "style":
        parts = (part.partition(":") for part in value.split(";"))
        styles = {style.strip(): text.strip() for style, _, text in parts if text}
        size = FONT_SIZE.search(styles.pop("font", ""))
        sized = {"font-size": size[1]} if size else {}
        return [_presentation(*style) for style in (styles | sized).items()]
    if key == "id":
        if value.startswith(SHOWN):
            return [("data-row", value.removeprefix(SHOWN))]
        if value.startswith(HIDDEN):
            return [("data-row", value.removeprefix(HIDDEN)), ("display", "none")]
        return [("id", f"{name}-{value}")] if value in used else []
    if key == LINK:
        return [("href", f"#{name}-{value[1:]}")]
    if key == "clip-path":
        return [(key, value.replace("url(#", f"url(#{name}-"))]
    return [_presentation(key, value)]


def _presentation(key: str, value: str) -> tuple[str, str]:
    return key, "currentColor" if value == INK else value
