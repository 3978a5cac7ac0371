import numpy as np
import pytest
import torch
from PIL import Image

from slimctl.jobs.evaluation.sampling import GAP_PX, save_sample_grid


def read(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("size", "factor"), [(1, 32), (8, 4), (20, 2), (31, 2), (32, 1), (64, 1)])
def test_small_images_are_enlarged_by_whole_factors(tmp_path, size, factor):
    levels = torch.randint(0, 256, (3, 3, size, size))
    save_sample_grid(levels / 127.5 - 1, tmp_path / "s.png", columns=2)
    sheet = read(tmp_path / "s.png")
    tile = size * factor
    assert sheet.shape == (2 * (tile + GAP_PX) + GAP_PX, 2 * (tile + GAP_PX) + GAP_PX, 3)
    for number in range(3):
        top = GAP_PX + (number // 2) * (tile + GAP_PX)
        left = GAP_PX + (number % 2) * (tile + GAP_PX)
        shown = sheet[top : top + tile : factor, left : left + tile : factor]
        np.testing.assert_array_equal(shown, levels[number].permute(1, 2, 0).numpy())
    empty = sheet[-tile - GAP_PX :, -tile - GAP_PX :]
    assert (empty == 255).all()
    assert (sheet[:GAP_PX] == 255).all()


def test_grey_images_are_grey(tmp_path):
    save_sample_grid(torch.full((1, 1, 32, 32), -1.0), tmp_path / "s.png", columns=1)
    assert (read(tmp_path / "s.png")[GAP_PX:-GAP_PX, GAP_PX:-GAP_PX] == 0).all()


def test_values_outside_the_range_are_clipped(tmp_path):
    images = torch.tensor([-7.0, 7.0]).view(2, 1, 1, 1).expand(2, 1, 32, 32)
    save_sample_grid(images, tmp_path / "s.png", columns=2)
    sheet = read(tmp_path / "s.png")
    assert (sheet[10, 10] == 0).all()
    assert (sheet[10, 50] == 255).all()
