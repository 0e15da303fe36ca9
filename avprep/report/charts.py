"""Charts as inline SVG by matplotlib, in the page's colours: light and dark, without style attributes.

A Content-Security-Policy that forbids inline styles forbids matplotlib's style attributes too. They become
presentation attributes, and the colours become classes that the page's style sheet defines.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avprep.errors import shown
from avprep.report.tally import Histogram

# What matplotlib draws in -> the class in the style sheet.
_INK, _MARK = "#000000", "#ff0000"
_SERIES = tuple(f"#0000a{i}" for i in range(6))
_CLASSES = {_INK: "ink", _MARK: "mark"} | {colour: f"s{i}" for i, colour in enumerate(_SERIES)}

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "text.parse_math": False,  # names from files are text, never formulas
    "axes.formatter.use_mathtext": False,
}
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _LINK)


def histogram(
    found: Histogram, *, name: str, unit: str = "", counted: str = "clips", thresholds: Sequence[float] = ()
) -> Markup:
    """A histogram of what is `counted`; each threshold is a dashed line."""
    counts, edges = found.bins()

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=_SERIES[0])
        for threshold in thresholds:
            axes.axvline(threshold, color=_MARK, linestyle="--", linewidth=1.2)
        axes.set_xlabel(shown(unit or name, 40))
        axes.set_ylabel(counted)
        axes.margins(x=0.02)

    where = "".join(f", threshold {threshold:g}" for threshold in thresholds)
    title = f"{name}: {found.count:,} values from {found.low:.4g} to {found.high:.4g}{where}"
    return _svg(draw, title, size=(3.5, 1.9))


def bars(values: Mapping[str, float], *, title: str, unit: str) -> Markup:
    """A horizontal bar for each name, the first on top."""
    names = [shown(name, 28) for name in values]

    def draw(axes: Axes) -> None:
        axes.barh(range(len(names)), list(values.values()), color=_SERIES[0], height=0.7)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(unit)

    return _svg(draw, title, size=(5.2, 0.7 + 0.26 * len(names)))


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str) -> Markup:
    """Lines over training steps: name -> (steps, values). At most six, the number of colours."""

    def draw(axes: Axes) -> None:
        for colour, (name, (steps, values)) in zip(_SERIES, series.items(), strict=False):
            marker = "o" if len(steps) == 1 else ""
            axes.plot(steps, values, color=colour, linewidth=1.4, marker=marker, label=shown(name, 28))
        axes.set_xlabel("step")
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8)

    return _svg(draw, title, size=(3.8, 2.3))


def _svg(draw, title: str, *, size: tuple[float, float]) -> Markup:
    # The salt makes the ids of clip paths and markers: equal charts are equal bytes.
    with rc_context(_SETTINGS | {"svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return themed(file.getvalue(), title)


def themed(text: str, title: str) -> Markup:
    """matplotlib's SVG as an element of the page, described by `title`."""
    root = ET.fromstring(text)  # matplotlib's own output
    for name in ("metadata", "defs"):
        for child in root.findall(f"{{{_SVG}}}{name}"):
            if name == "metadata" or child.find(f"{{{_SVG}}}style") is not None:
                root.remove(child)
    linked = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    for element in root.iter():
        if element.get("id") not in linked:
            element.attrib.pop("id", None)
        _unstyle(element)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-label", shown(title))
    return Markup(ET.tostring(root, encoding="unicode"))  # ElementTree has escaped the text


def _unstyle(element: ET.Element) -> None:
    """Style attributes become presentation attributes; colours become classes."""
    classes = []
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in ("fill", "stroke") and value in _CLASSES:
            classes.append(f"{name}-{_CLASSES[value]}")
        elif name == "font":
            element.set("font-size", re.findall(r"[\d.]+px", value)[0])
        elif name and name != "font-family":
            element.set(name, value)
    if classes:
        element.set("class", " ".join(classes))
