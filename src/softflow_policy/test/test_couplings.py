"""The transforms: invertible, with exact log-determinants, and every dimension is moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from softflow_policy.conditioners import Grid, build_conditioner
from softflow_policy.couplings import AffineCoupling, ConditionalAffine, parity_mask

GRID = Grid(5, 8)


def randomised(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Away from the zero-initialised start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def transforms(dtype: torch.dtype) -> list[nn.Module]:
    made = [AffineCoupling(parity_mask(k, GRID), GRID, 6, width=32) for k in range(4)]
    return [randomised(t).to(dtype) for t in [*made, ConditionalAffine(GRID.size, 6)]]


def inputs(dtype: torch.dtype, batch: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, GRID.size, generator=generator, dtype=dtype)
    return x, torch.randn(batch, 6, generator=generator, dtype=dtype)


@pytest.mark.parametrize("index", range(5))
def test_forward_then_inverse_is_the_identity(index: int) -> None:
    transform, (x, condition) = transforms(torch.float64)[index], inputs(torch.float64)
    z, forward = transform(x, condition)
    back, inverse = transform.inverse(z, condition)
    assert (back - x).abs().max() < 1e-12
    assert (forward + inverse).abs().max() < 1e-12
    assert (z - x).abs().max() > 0.1


@pytest.mark.parametrize("index", range(5))
def test_log_det_is_that_of_the_jacobian(index: int) -> None:
    transform, (x, condition) = transforms(torch.float64)[index], inputs(torch.float64, batch=3)
    _, log_det = transform(x, condition)
    for row in range(len(x)):
        c = condition[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, c=c: transform(v[None], c)[0][0], x[row])
        assert abs(torch.linalg.slogdet(jacobian).logabsdet - log_det[row]) < 1e-10


def test_a_coupling_leaves_the_kept_dimensions_alone() -> None:
    coupling, (x, condition) = transforms(torch.float32)[0], inputs(torch.float32)
    z, _ = coupling(x, condition)
    assert torch.equal(z * coupling.mask, x * coupling.mask)


@pytest.mark.parametrize("grid", [Grid(5, 8), Grid(4, 3), Grid(1, 8), Grid(6, 1), Grid(1, 2)])
def test_four_couplings_move_every_dimension_twice(grid: Grid) -> None:
    moved = sum(1 - parity_mask(k, grid) for k in range(4))
    assert torch.equal(moved, torch.full((grid.size,), 2.0))


def test_masks_alternate_between_time_and_joint() -> None:
    assert parity_mask(0, GRID).reshape(GRID)[:, 0].tolist() == [1, 0, 1, 0, 1]
    assert parity_mask(1, GRID).reshape(GRID)[0].tolist() == [1, 0] * 4
    assert torch.equal(parity_mask(2, GRID), 1 - parity_mask(0, GRID))
    assert torch.equal(parity_mask(3, GRID), 1 - parity_mask(1, GRID))


def test_log_scale_stays_within_its_bound() -> None:
    coupling = AffineCoupling(parity_mask(0, GRID), GRID, 6, width=32, log_scale_max=0.5)
    randomised(coupling, scale=50.0)
    log_scale, _ = coupling.parameters_of(*inputs(torch.float32))
    assert log_scale.abs().max() <= 0.5


def test_log_det_is_never_in_half_precision() -> None:
    coupling = AffineCoupling(parity_mask(0, GRID), GRID, 6, width=32).to(torch.bfloat16)
    _, log_det = coupling(*inputs(torch.bfloat16))
    assert log_det.dtype == torch.float32


def test_an_unknown_conditioner_is_named() -> None:
    with pytest.raises(ValueError, match=r"'cnn'.*mlp"):
        build_conditioner("cnn", GRID, parity_mask(0, GRID), 6, 32, 2)
