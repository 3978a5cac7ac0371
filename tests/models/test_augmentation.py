"""Each transformation against what it should do, and what a critic's p leaves alone."""

import torch

from slimctl.models.augmentation import NUMBERS, augmented

HALF = NUMBERS // 2
IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def numbers(asked, amounts=None, count=3):
    """Numbers that ask for one transformation, with what is drawn for its size."""
    given = torch.full((count, NUMBERS), 0.5)
    given[:, :HALF] = 0.99
    for each in asked:
        given[:, each] = 0.0
    for place, amount in (amounts or {}).items():
        given[:, HALF + place] = amount
    return given


def seen(asked, amounts=None, flip=True, images=IMAGES):
    return augmented(images, numbers(asked, amounts), 0.5, flip=flip)


def test_what_is_not_asked_for_changes_nothing():
    torch.testing.assert_close(seen([]), IMAGES)
    assert augmented(IMAGES, numbers([0, 4]), 0.0, flip=True) is IMAGES


def test_whole_pixels_are_moved_exactly_and_the_border_is_mirrored():
    moved = seen([0], {0: 1.0})  # a shift by an eighth: one pixel of eight
    torch.testing.assert_close(moved[:, :, 1:], IMAGES[:, :, :-1])
    torch.testing.assert_close(moved[:, :, 0], IMAGES[:, :, 0])
    back = seen([1], {1: 0.0})
    torch.testing.assert_close(back[..., :-1], IMAGES[..., 1:])


def test_images_are_mirrored_only_where_that_is_valid():
    torch.testing.assert_close(seen([3], {3: 0.1}), IMAGES.flip(-1))
    torch.testing.assert_close(seen([3], {3: 0.1}, flip=False), IMAGES)


def test_scaling_keeps_a_ramp_a_ramp():
    ramp = torch.linspace(-1, 1, 8).expand(1, 1, 8, 8).clone()
    larger = augmented(ramp, numbers([2], {2: 0.9}, 1), 0.5, flip=True)
    factor = 2 ** (0.2 * float(torch.special.ndtri(torch.tensor(0.9))))
    torch.testing.assert_close(larger, ramp / factor)


def test_brightness_contrast_and_cutout():
    quantile = float(torch.special.ndtri(torch.tensor(0.8)))
    torch.testing.assert_close(seen([4], {4: 0.8}), IMAGES + 0.2 * quantile)
    torch.testing.assert_close(seen([5], {5: 0.8}), IMAGES * 2 ** (0.5 * quantile))
    cut = seen([6], {6: 0.5, 7: 0.5})
    assert not cut[..., 2:6, 2:6].any()
    torch.testing.assert_close(cut[..., :2, :], IMAGES[..., :2, :])


def test_gradients_reach_the_images():
    images = IMAGES[:2].double().requires_grad_()
    given = torch.rand(2, NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda x: augmented(x, given, 0.9, flip=True), images)
