"""Plots: scale, gaps, sizes."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from tempa.report.plot import MAX_POINTS, Bar, bar_plot, line_plot


def coordinates(svg: str) -> list[tuple[float, float]]:
    path = re.search(r'd="M([^"]+)"', svg)
    assert path
    return [(float(x), float(y)) for x, y in (pair.split() for pair in path[1].split("L"))]


def test_plots_are_well_formed_and_repeatable() -> None:
    series = {"a < b": [(0, 1.0), (10, 2.0)], "c": [(0, 3.0)]}
    first, second = (
        line_plot(series, x_label="step", y_label="loss", levels={"gzip": 2.5}) for _ in range(2)
    )
    assert first == second
    ET.fromstring(first)


def test_larger_values_are_further_right_and_higher() -> None:
    (x0, y0), (x1, y1) = coordinates(line_plot({"a": [(0, 1.0), (10, 2.0)]}, x_label="x", y_label="y"))
    assert x1 > x0
    assert y1 < y0


def test_points_that_are_not_finite_are_left_out() -> None:
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]
    assert len(coordinates(line_plot({"a": points}, x_label="x", y_label="y"))) == 2


def test_a_plot_without_points_says_so() -> None:
    assert "no loss recorded" in line_plot({"a": [(0, math.nan)]}, x_label="step", y_label="loss")


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30])
def test_a_constant_has_a_scale(value: float) -> None:
    assert len(coordinates(line_plot({"a": [(5, value), (6, value)]}, x_label="x", y_label="y"))) == 2


def test_long_series_are_thinned_to_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(100_000)]
    svg = line_plot({"a": points}, x_label="x", y_label="y")
    assert len(coordinates(svg)) == MAX_POINTS
    assert len(svg) < 20_000


def test_bars_show_value_interval_and_note() -> None:
    html = bar_plot(
        [Bar("ours", 0.5, 0.4, 0.6, "of 200"), Bar("theirs", 0.0)], title="rate", unit="%", top=1.0
    )
    ET.fromstring(html)
    assert "50% [40, 60]" in html
    assert "left:40.00%;width:20.00%" in html
    assert "of 200" in html


def test_bars_keep_the_colours_they_are_given() -> None:
    html = bar_plot([Bar("ours", 0.5, color=3), Bar("theirs", 0.5)], title="rate")
    assert [index for index in range(6) if f"var(--c{index})" in html] == [1, 3]


def test_bars_of_zeros_have_a_scale() -> None:
    ET.fromstring(bar_plot([Bar("none", 0.0, 0.0, 0.0)], title="rate"))
