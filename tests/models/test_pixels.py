import torch

from slimctl.models.pixels import to_float, to_uint8


def test_bytes_survive_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert (float(floats[0]), float(floats[255])) == (-1.0, 1.0)
    assert floats.dtype == torch.float32
    assert torch.equal(to_uint8(floats), every)
    assert torch.equal(to_uint8(floats.half()), every)
    assert torch.equal(every, torch.arange(256, dtype=torch.uint8))


def test_floats_are_rounded_and_clipped():
    level = 1 / 127.5
    floats = torch.tensor([-9.0, -1.0 + 0.49 * level, -1.0 + 0.51 * level, 0.999, 1.5])
    assert to_uint8(floats).tolist() == [0, 0, 1, 255, 255]
    assert floats[0] == -9.0
