"""Starts that separate and starts that do not: radii against a flood on a grid, and the convex problem."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layershift.dynamics.global_minimum import mirrored_problem
from layershift.dynamics.planar import centred_sample, recorded_steps
from layershift.dynamics.separation import STARTS, circle, covering_radius, least_loss, separation_radius, start
from layershift.dynamics.velocities import Problem, velocity

DOUBLE = torch.float64
PLANE = torch.diag(torch.tensor([5.0, 1.0], dtype=DOUBLE))


def separates(a, angle, radius: float, cells: int = 160, top: float = 4.5) -> bool:
    """Flood the cylinder from below around the discs: is the top reached?"""
    rows = cells
    height = torch.linspace(-top, top, rows, dtype=DOUBLE)
    turn = torch.arange(cells, dtype=DOUBLE) * (2 * math.pi / cells)
    across = torch.remainder(turn[:, None] - angle + math.pi, 2 * math.pi) - math.pi
    near = torch.hypot(height[:, None, None] - a, across[None]).amin(2)
    free = (near > radius).tolist()
    queue = deque((0, k) for k in range(cells) if free[0][k])
    seen = set(queue)
    while queue:
        i, k = queue.popleft()
        if i == rows - 1:
            return False
        for place in ((i + 1, k), (i - 1, k), (i, (k + 1) % cells), (i, (k - 1) % cells)):
            if 0 <= place[0] < rows and place not in seen and free[place[0]][place[1]]:
                seen.add(place)
                queue.append(place)
    return True


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10_000))
def test_the_radius_is_where_a_flood_is_stopped(m, seed) -> None:
    g = torch.Generator().manual_seed(seed)
    a, angle = torch.rand(m, generator=g, dtype=DOUBLE) * 2 - 1, 6.3 * torch.rand(m, generator=g, dtype=DOUBLE)
    radius = float(separation_radius(a, torch.stack([angle.cos(), angle.sin()], 1)))
    cell = 0.1  # more than a cell's diagonal
    assert radius <= math.pi + 1e-12
    assert separates(a, angle, radius + cell)
    if radius > cell:
        assert not separates(a, angle, radius - cell)


def test_on_one_height_it_is_half_the_largest_gap() -> None:
    _, b = start("graph", 50, PLANE, seed=3)
    zero = torch.zeros(50, dtype=DOUBLE)
    assert float(separation_radius(zero, b)) == pytest.approx(float(covering_radius(b)), rel=1e-9)
    assert float(separation_radius(zero[:1], b[:1])) == pytest.approx(math.pi)


def test_starts_separate_as_they_grow_or_never() -> None:
    for kind in STARTS:
        narrow, wide = (float(separation_radius(*start(kind, m, PLANE, seed=1))) for m in (20, 500))
        if kind in ("graph", "filled"):
            assert wide < narrow / 2 < 0.6
        else:
            assert wide > 1.5


def test_starts_are_what_they_are_called() -> None:
    sigma = torch.eye(4, dtype=DOUBLE)
    for kind in STARTS:
        a, b = start(kind, 64, sigma, r0=0.5, half_angle=0.2)
        assert torch.allclose(b.norm(dim=1), torch.ones(64, dtype=DOUBLE))
        assert float(a.abs().max()) <= 0.5
    a, b = start("graph", 64, sigma)
    assert float(a.abs().max()) == 0
    _, b = start("cone", 64, sigma, half_angle=0.2)
    assert float(b[:, -1].acos().max()) <= 0.2 + 1e-9
    _, b = start("axis", 64, sigma)
    assert b[:, 1:].abs().max() == 0
    assert set(b[:, 0].tolist()) == {-1.0, 1.0}


def test_the_covering_radius_in_space_is_that_of_known_points() -> None:
    corners = torch.cat([torch.eye(3, dtype=DOUBLE), -torch.eye(3, dtype=DOUBLE)])
    found = covering_radius(corners, probes=20_000, generator=torch.Generator().manual_seed(0))
    exact = math.acos(1 / math.sqrt(3))
    assert exact - 0.03 < float(found) <= exact


def test_the_least_loss_is_a_bound_that_is_reached() -> None:
    x = centred_sample(60, PLANE, seed=1)
    problem = Problem(x, x[:, 1] ** 2, PLANE, "squared", "tanh")
    b = circle(24)
    loss, mass = least_loss(problem, b)
    assert float(velocity(problem, len(b) * mass, b, kind="batch_norm").loss) == pytest.approx(float(loss), rel=1e-9)
    force = velocity(problem, len(b) * mass, b, kind="batch_norm").a
    assert float(force.abs().max()) < 1e-9, "at the minimum no mass wants to change"
    assert float(least_loss(problem, circle(48))[0]) <= float(loss) + 1e-12
    assert float(least_loss(problem, b[:6])[0]) > float(loss)


def test_least_loss_wants_least_squares() -> None:
    problem = mirrored_problem(8)._replace(loss="logistic")
    with pytest.raises(ValueError, match="problem: expected the squared loss, got 'logistic'"):
        least_loss(problem, circle(4))


@pytest.mark.parametrize(("kind", "fails"), [("graph", False), ("axis", True), ("point", True)])
def test_a_start_that_separates_reaches_the_minimum_and_others_end_at_their_floor(kind, fails) -> None:
    problem = mirrored_problem(32)
    a, b = start(kind, 60, PLANE)
    first, last = recorded_steps(problem, a, b, kind="batch_norm", rate=0.1, record=[0, 700])
    if not fails:
        assert last.loss < 1e-3 * first.loss
        return
    own = circle(2) if kind == "axis" else circle(360)
    floor = least_loss(problem, own)[0] if kind == "axis" else min(least_loss(problem, one[None])[0] for one in own)
    assert floor > 1e-3 * first.loss
    assert last.loss > (1 - 1e-3) * floor


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="kind: expected one of 'graph'"):
        start("ring", 3, PLANE)
    with pytest.raises(ValueError, match=r"half_angle: expected an angle in \(0, π\]"):
        start("cone", 3, PLANE, half_angle=0.0)
    with pytest.raises(ValueError, match="b: expected directions in the plane"):
        separation_radius(torch.zeros(2), torch.ones(2, 3))
    with pytest.raises(ValueError, match="b: expected shape"):
        covering_radius(torch.ones(3, 1))
    with pytest.raises(ValueError, match="n: expected an even number for a mirrored sample, got 7"):
        centred_sample(7, PLANE, mirrored=True)
    with pytest.raises(ValueError, match="n: expected more than 2 draws, got 2"):
        centred_sample(2, PLANE)
