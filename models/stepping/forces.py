"""Accelerations, their rates of change, and the shortest time scale of three-body systems."""

import numpy as np

from slimctl.models.stepping.bodies import Floats, separations


def forces(masses: Floats, phase: Floats) -> tuple[Floats, Floats]:
    """One evaluation: acceleration and jerk of each body, and the time scale T_c of each system.

    With r and v the separation and relative velocity of a pair,

        a_i = sum_j m_j r / |r|^3
        j_i = sum_j m_j (v / |r|^3 - 3 (r v) r / |r|^5)
        T_c = min over pairs of |r| / |v| and sqrt(|r| / a_ij),     a_ij = (m_i + m_j) / |r|^2

    The compiled loop does the same operations in the same order, so that both agree to the bit.

    Args:
        masses: (3, N).
        phase: x, y, vx, vy: (4, 3, N).

    Returns:
        ax, ay, jx, jy of shape (4, 3, N), and T_c of shape (N,).

    Source: Hut, Makino and McMillan's integrator as AMUSE runs it (arXiv 2502.12809, section 3).
    """
    apart = separations(phase)
    squares = apart * apart
    distance2 = squares[0] + squares[1]
    speed2 = squares[2] + squares[3]
    products = apart[:2] * apart[2:]
    cubed = np.sqrt(distance2) * distance2
    pull = apart / cubed
    bend = 3.0 * (products[0] + products[1]) / distance2
    pull[2:] -= bend * pull[:2]
    weighted = pull * masses
    result = np.empty_like(pull)
    np.multiply(pull[:, :2], masses[1:], out=result[:, :2])
    np.multiply(pull[:, 2], masses[0], out=result[:, 2])
    result[:, 1:] -= weighted[:, :2]
    result[:, 0] -= weighted[:, 2]
    together = np.empty_like(masses)
    np.add(masses[:2], masses[1:], out=together[:2])
    np.add(masses[2], masses[0], out=together[2])
    scale2 = np.minimum(distance2 / speed2, cubed / together)
    shortest = np.minimum(np.minimum(scale2[0], scale2[1]), scale2[2])
    return result, np.sqrt(shortest)


def closest_pair(phase: Floats) -> tuple[Floats, Floats]:
    """Distance of the two bodies that are closest, au, and their relative speed; both (N,)."""
    apart = separations(phase)
    distance = np.hypot(apart[0], apart[1])
    speed = np.hypot(apart[2], apart[3])
    nearest = distance.argmin(axis=0)[None]
    return (
        np.take_along_axis(distance, nearest, axis=0)[0],
        np.take_along_axis(speed, nearest, axis=0)[0],
    )
