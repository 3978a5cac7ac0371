"""Heights of the levels of a network that halves its images, for any image size.

An odd height is halved upwards (7 -> 4 -> 2 -> 1), so that every image size works; at even
heights this is the usual halving of the published networks.
"""


def level_heights(size: int, levels: int) -> tuple[int, ...]:
    """Heights in pixels from the first (full-size) level to the last.

    Raises:
        ValueError: some level would halve an image of one pixel.
    """
    most = (size - 1).bit_length() + 1
    if levels > most:
        raise ValueError(
            f"images of {size} x {size} px cannot be halved {levels - 1} times"
            f"\n  fix: give at most {most} channel_multipliers, one per level"
        )
    heights = [size]
    for _ in range(levels - 1):
        heights.append((heights[-1] + 1) // 2)
    return tuple(heights)
