"""Straightness of flows whose trajectories are known."""

import math

import pytest
import torch

from slimctl.models.metrics.straightness import straightness


def noise(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(angle):
    """The plane turns by `angle` between t = 0 and t = 1."""

    def velocity(xt, t):
        return angle * torch.stack([-xt[:, 1], xt[:, 0]], dim=1)

    return velocity


def test_straight_lines_at_constant_speed_are_straight():
    x0 = noise(8, 3, 4, 4)
    target = noise(8, 3, 4, 4).flip(0)
    result = straightness(lambda xt, t: target - x0, x0, num_steps=10)
    assert result.max() < 1e-30


def test_a_straight_line_at_changing_speed_is_not():
    # v = 2 t gives x1 - x0 = 1 and int (1 - 2 t)^2 dt = 1 / 3.
    def velocity(xt, t):
        return (2 * t)[:, None].expand_as(xt)

    result = straightness(velocity, noise(4, 5), num_steps=400)
    assert result.tolist() == pytest.approx([1 / 3] * 4, rel=1e-5)


@pytest.mark.parametrize("angle", [0.3, math.pi / 2])
def test_rotation_has_a_closed_form(angle):
    # |v| is angle |x0| all the way and |x1 - x0|^2 is 2 (1 - cos angle) |x0|^2.
    x0 = noise(50, 2)
    chord = 2 * (1 - math.cos(angle))
    result = straightness(rotation(angle), x0, num_steps=500)
    expected = (angle**2 - chord) * x0.square().mean(dim=1)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=0)


def test_error_is_of_second_order():
    x0 = noise(20, 2)
    exact = (1 - 2 * (1 - math.cos(1))) * float(x0.square().mean())
    coarse, fine = (
        abs(straightness(rotation(1.0), x0, num_steps=steps).mean() - exact) for steps in (20, 40)
    )
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.1)


def test_a_late_start_averages_over_the_rest_of_the_way():
    # From t = 1/2 the plane turns by half the angle at the same speed: mean velocity = chord / 0.5.
    x0, angle = noise(20, 2), 2.0
    result = straightness(rotation(angle), x0, num_steps=400, t_start=0.5)
    mean_square = 2 * (1 - math.cos(angle / 2)) / 0.25
    expected = (angle**2 - mean_square) * float(x0.square().mean())
    assert float(result.mean()) == pytest.approx(expected, rel=1e-4)


def test_times_are_those_of_the_midpoint_rule():
    seen = []

    def velocity(xt, t):
        assert t.shape == (3,)
        assert t.dtype == xt.dtype == torch.float32
        seen.append(float(t[0]))
        return xt

    straightness(velocity, noise(3, 2).float(), num_steps=2)
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_batches_and_image_size_change_nothing():
    x0 = noise(7, 2)
    whole = straightness(rotation(1.0), x0)
    parts = straightness(rotation(1.0), x0, batch_size=3)
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=0)
    tall = x0[:, :, None].expand(7, 2, 6)
    torch.testing.assert_close(straightness(rotation(1.0), tall), whole, rtol=1e-12, atol=0)


def test_no_gradient_is_kept():
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    result = straightness(lambda xt, t: xt * weight, noise(4, 2), num_steps=2)
    assert not result.requires_grad


def test_a_flow_at_rest_is_straight():
    result = straightness(lambda xt, t: torch.zeros_like(xt), noise(4, 2))
    assert result.eq(0).all()


def test_a_way_back_to_the_start_has_the_square_of_its_speed():
    def velocity(xt, t):
        return torch.where(t < 0.5, 1.0, -1.0).double()[:, None].expand_as(xt)

    result = straightness(velocity, noise(4, 2), num_steps=2)
    assert result.eq(1).all()


def test_refuses_what_cannot_be_followed():
    with pytest.raises(ValueError, match=r"shape is \(4, 1\) where x is \(4, 2\)"):
        straightness(lambda xt, t: t[:, None], noise(4, 2))
    with pytest.raises(ValueError, match="sample 0 of 4"):
        straightness(lambda xt, t: xt / 0.0, noise(4, 2))
    with pytest.raises(ValueError, match="num_steps 0"):
        straightness(rotation(1.0), noise(4, 2), num_steps=0)
    with pytest.raises(ValueError, match=r"t_start 1\.0"):
        straightness(rotation(1.0), noise(4, 2), t_start=1.0)
