"""What the perceptual networks cost, known without torch; tests count it on the networks."""

INCEPTION_MACS = 5_711_168_096
"""Multiply-adds of Inception's features of one image, at 299 px."""
VGG_WIDTHS = (64, 128, 256, 512, 512)
"""Channels of VGG-16's five levels; each layer that LPIPS looks at is the last of its level."""
VGG_DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions a level."""


def vgg_macs(size: int) -> int:
    """Multiply-adds of VGG-16's convolutions for one image of `size` x `size` pixels."""
    total, inputs = 0, 3
    for level, (width, depth) in enumerate(zip(VGG_WIDTHS, VGG_DEPTHS, strict=True)):
        for _ in range(depth):
            total += 9 * inputs * width * (size >> level) ** 2
            inputs = width
    return total


VGG_WEIGHT_BYTES = 4 * 14_714_688
"""Of VGG-16's convolutions, in float32."""
