"""Charts: one element, no style attribute, names as text, equal bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np

from avprep.report import charts
from avprep.report.tally import Histogram

NAME = "</svg><script>$\\frac{1}{0}$\n"


def made() -> Histogram:
    found = Histogram()
    found.add(np.arange(100.0))
    return found


def test_charts_are_well_formed_without_styles_and_described():
    drawn = [
        charts.histogram(made(), name=NAME, thresholds=(30,)),
        charts.bars({NAME: 1.0, "b": 2.0}, title="time", unit="s"),
        charts.curves({NAME: ([1, 2], [3.0, 4.0]), "b": ([1], [2.0])}, title="loss"),
    ]
    for chart in drawn:
        root = ET.fromstring(chart)
        assert root.tag.endswith("svg") and root.get("aria-label")
        assert all("style" not in element.attrib for element in root.iter())
        assert not list(root.iter("{http://www.w3.org/2000/svg}style"))
        assert "<script" not in chart
    assert "threshold 30" in drawn[0] and "stroke-mark" in drawn[0]
    assert "</svg><script>$\\frac{1}{0}$" in "".join(ET.fromstring(drawn[2]).itertext())


def test_a_chart_is_equal_bytes_each_time_and_ids_of_two_charts_differ():
    assert charts.histogram(made(), name="a") == charts.histogram(made(), name="a")
    ids = [
        {element.get("id") for element in ET.fromstring(charts.histogram(made(), name=name)).iter()} - {None}
        for name in ("a", "b")
    ]
    assert ids[0] and ids[0].isdisjoint(ids[1])
