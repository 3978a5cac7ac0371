"""Names beside the points of a picture: none covers another, or a point.

Each name takes the nearest free place around its point, and a thin line to it where that is not
beside it. A name for which there is no place is left out; the table has it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

SIZE_PT = 7
POINT_PT = 3.5
"""Half the size of a point with its border."""
BESIDE_PT = 6.0
RINGS = 26
DIRECTIONS = 16
STEP_PT = 9.0
"""From one ring of places to the next."""

Named = tuple[float, float, str]
"""x and y in the units of the axes, and the name."""


def name_points(points: Sequence[Named], others: Sequence[Named], axes: "Axes") -> list[str]:
    """Writes the names of points into axes whose limits are settled; `others` are kept free.

    Returns:
        The names for which there was no place.
    """
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()  # settles where points are, in pixels
    pixels = figure.dpi / 72
    at = [tuple(axes.transData.transform((x, y))) for x, y, _ in (*points, *others)]
    half = POINT_PT * pixels
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in at]
    frame, left_out = axes.get_window_extent(), []
    for (x, y, name), (px, py) in zip(points, at, strict=False):
        note = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=SIZE_PT)
        note.set_in_layout(False)
        box = note.get_window_extent()
        note.remove()
        for dx, dy, ring in _places(box.width / pixels, box.height / pixels):
            left, low = px + dx * pixels, py + dy * pixels
            place = Bbox.from_bounds(left, low, box.width, box.height)
            if _inside(place, frame) and not any(place.overlaps(one) for one in taken):
                line = _line(dx * pixels / box.width, dy * pixels / box.height) if ring else None
                placed = axes.annotate(
                    name, (x, y), (dx, dy), textcoords="offset points", fontsize=SIZE_PT,
                    va="bottom", arrowprops=line,
                )  # fmt: skip
                placed.set_in_layout(False)
                taken.append(place)
                break
        else:
            left_out.append(name)
    return left_out


def _places(width: float, height: float) -> Iterator[tuple[float, float, int]]:
    """Offsets of the lower left corner of a name from its point, the nearest first, points."""
    for ring in range(RINGS):
        away = BESIDE_PT + ring * STEP_PT
        for turn in sorted(range(-DIRECTIONS // 2, DIRECTIONS // 2), key=abs):
            angle = math.pi / 4 + 2 * math.pi * turn / DIRECTIONS  # the front leaves that side free
            x, y = math.cos(angle), math.sin(angle)
            dx = away * x - width * (1 - x) / 2
            yield dx, away * y - height * (1 - y) / 2, ring


def _line(dx: float, dy: float) -> dict[str, Any]:
    """A line from the side of a name that faces its point; offsets in sizes of the name."""
    side = (min(max(-dx, 0.0), 1.0), min(max(-dy, 0.0), 1.0))
    return {
        "arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "relpos": side, "shrinkA": 0.5,
        "shrinkB": POINT_PT,
    }  # fmt: skip


def _inside(box: "Bbox", frame: "Bbox") -> bool:
    return bool(
        frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    )
