"""The adaptive solver against scipy's RK45: the same steps, row by row."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from pipelines.ode import dormand_prince

MATRIX = np.array([[-1.0, 3.0], [-3.0, -0.5]])


def field(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    return x @ torch.tensor(MATRIX).T * torch.cos(2 * t)[:, None] + torch.sin(x)


def scipy_field(t: float, x: np.ndarray) -> np.ndarray:
    return MATRIX @ x * np.cos(2 * t) + np.sin(x)


@pytest.mark.parametrize(("start", "end"), [(1.0, -2.0), (0.0, 3.0)])
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_each_row_takes_the_steps_of_scipy(start: float, end: float, rtol: float) -> None:
    x = torch.tensor([[1.0, 2.0], [-0.3, 0.1], [0.0, 0.0], [12.0, 3.0]], dtype=torch.float64)
    *_, last = dormand_prince(field, x, start, end, rtol, 1e-8, 10_000)
    for row, found, evaluations in zip(x, last.x, last.evaluations, strict=True):
        expected = solve_ivp(scipy_field, (start, end), row.numpy(), rtol=rtol, atol=1e-8)
        assert int(evaluations) == expected.nfev
        np.testing.assert_allclose(
            found.numpy(), expected.y[:, -1], rtol=1e-7, atol=1e-9
        )  # rounding moves the step sizes
    assert bool((last.t == end).all()) and len(set(last.evaluations.tolist())) > 1


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    x = torch.tensor([[1.0, 2.0], [40.0, -7.0], [-0.3, 0.1]], dtype=torch.float64)
    *_, together = dormand_prince(field, x, 0.0, 3.0, 1e-5, 1e-8, 10_000)
    for i in range(3):
        *_, alone = dormand_prince(field, x[i : i + 1], 0.0, 3.0, 1e-5, 1e-8, 10_000)
        assert torch.equal(alone.x[0], together.x[i]) and alone.evaluations[0] == together.evaluations[i]


@pytest.mark.parametrize(
    ("slope", "said"),
    [
        (lambda x, t, rows: 1e4 * torch.cos(1e5 * t)[:, None] * torch.ones_like(x), "after 500 evaluations"),
        (lambda x, t, rows: x.square(), "not at 3"),  # infinite at t = 1
    ],
)
def test_a_solution_that_cannot_be_followed_ends_with_an_error(slope: object, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        list(dormand_prince(slope, torch.ones(2, 1, dtype=torch.float64), 0.0, 3.0, 1e-6, 1e-6, 500))
