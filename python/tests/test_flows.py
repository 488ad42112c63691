"""Flows of points in the report."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loci.flows import FILE, Flow, draw_line, draw_ways, flow_figure
from matplotlib.figure import Figure
from test_pictures import page_of, picture_in, run_with


def flow_of(dimensions: int = 2, points: int = 6) -> dict[str, Any]:
    drawn = np.random.default_rng(0).normal(size=(11, points, dimensions))
    flow = {"set": "annuli", "states": drawn.tolist(), "depth": [1.0] * points, "labels": [0, 1] * (points // 2)}
    if dimensions == 1:
        del flow["labels"]
    return flow


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_report_draws_a_flow(tmp_path: Path, dimensions: int) -> None:
    page = page_of(run_with(tmp_path, FILE, {"account": {"flow": flow_of(dimensions)}}))
    assert picture_in(page, "flow") and "Flow of" in page


def test_every_way_is_drawn_whole() -> None:
    flow = Flow(flow_of())
    panel = Figure().subplots()
    draw_ways(panel, flow)
    drawn = [line.get_xydata() for line in panel.lines if len(line.get_xydata()) > 1]
    assert len(drawn) == 6
    for point, way in enumerate(drawn):
        assert np.array_equal(way, flow.states[:, point])
    line, panel = Flow(flow_of(1)), Figure().subplots()
    draw_line(panel, line)
    assert np.array_equal(panel.lines[2].get_xydata()[:, 1], line.states[:, 2, 0])
    assert flow_figure(flow).count(b"<svg") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"states": []}, "states must be two lists or more"),
        ({"states": [[[1, 2]], [[1]]]}, "a point must be 2 numbers"),
        ({"states": [[[1, 2]], [[1, 2], [3, 4]]]}, "states must have the same points"),
        ({"states": [[[1, 2, 3]], [[1, 2, 3]]]}, "states must be lists of points of one or two numbers"),
        ({"states": [[[1, "x"]] * 6] * 2}, "could not be read"),
        ({"depth": [1.0]}, "depth must be 6 numbers"),
        ({"labels": [7] * 6}, "labels must be 0 or 1 for each point"),
    ],
)
def test_strange_flows_become_a_note(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    flow = copy.deepcopy(flow_of()) | change
    page = page_of(run_with(tmp_path, FILE, {"account": {"flow": flow}}))
    assert words in page and "Flow of" not in page


def test_another_file_becomes_a_note(tmp_path: Path) -> None:
    for content in ("{", "[]", {"account": {}}):
        page = page_of(run_with(tmp_path / str(len(str(content))), FILE, content))
        assert f"{FILE} could not be read" in page
