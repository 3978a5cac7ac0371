"""Names in pictures stand beside their points and cover nothing."""

import itertools
import random

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from slimctl.orchestrator.results.names import POINT_PT, name_points


def drawn(points, others=()):
    """The axes with the names written, and those that were left out."""
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([x for x, _, _ in (*points, *others)], [y for _, y, _ in (*points, *others)], "o")
    axes.set(xscale="log", yscale="log")
    axes.margins(x=0.25)
    left_out = name_points(points, others, axes)
    figure.canvas.draw()
    return axes, left_out


def heap(count):
    """Points of which most lie in one place, with long names."""
    drawn_from = random.Random(0)
    return [
        (3 + 0.05 * drawn_from.random(), 2 + 4 * drawn_from.random(), f"sizes.width={n}.length=300")
        for n in range(count - 1)
    ] + [(100.0, 200.0, "teacher")]


@pytest.mark.parametrize("count", [2, 12, 30])
def test_no_name_covers_another_or_a_point(count):
    points = heap(count)
    axes, left_out = drawn(points)
    assert left_out == []
    assert [note.get_text() for note in axes.texts] == [name for _, _, name in points]
    boxes = [Text.get_window_extent(note) for note in axes.texts]  # without lines to points
    frame = axes.get_window_extent()
    half = POINT_PT * axes.figure.dpi / 72
    at = [axes.transData.transform((x, y)) for x, y, _ in points]
    marks = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in at]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(mark) for box in boxes for mark in marks)
    assert all(frame.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert all(frame.containsy(y) for box in boxes for y in (box.y0, box.y1))


def test_a_name_without_a_place_is_left_out():
    points = [(1.0, 1.0, "x" * 300), (2.0, 2.0, "short")]
    axes, left_out = drawn(points)
    assert left_out == ["x" * 300]
    assert [note.get_text() for note in axes.texts] == ["short"]
