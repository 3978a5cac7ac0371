"""Heights of a network's levels."""

import pytest

from slimctl.models.networks.spec import level_heights


@pytest.mark.parametrize(
    ("size", "levels", "heights"),
    [
        (32, 3, (32, 16, 8)),
        (30, 4, (30, 15, 8, 4)),
        (7, 4, (7, 4, 2, 1)),
        (4, 3, (4, 2, 1)),
        (1, 1, (1,)),
    ],
)
def test_heights_are_halved_upwards(size, levels, heights):
    assert level_heights(size, levels) == heights


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 64])
def test_one_pixel_is_never_halved(size):
    most = next(levels for levels in range(1, 99) if level_heights(size, levels)[-1] == 1)
    with pytest.raises(ValueError, match=f"{size} x {size} px.*\n.*at most {most} channel_mult"):
        level_heights(size, most + 1)
