"""The transforms: invertible, with exact log-determinants, and every dimension is moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from softflow_policy.conditioners import ConditionerShape, Grid, build_conditioner
from softflow_policy.couplings import (
    AffineCoupling,
    conditional_affine,
    conditional_affine_inverse,
    parity_mask,
)

GRID = Grid(5, 8)
KINDS = ["mlp", "transformer"]


def randomised(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Away from the zero-initialised start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def coupling(
    index: int = 0, kind: str = "mlp", grid: Grid = GRID, log_scale_max: float = 2.0
) -> AffineCoupling:
    shape = ConditionerShape(grid, kind, width=32)
    return AffineCoupling(parity_mask(index, grid), shape, log_scale_max=log_scale_max)


class Affine(nn.Module):
    """The affine transform behind the couplings, with their two methods."""

    CODE_SIZE = 2 * GRID.size

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        return conditional_affine(x, code)

    def inverse(self, z: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        return conditional_affine_inverse(z, code)


def transform(index: int, kind: str, dtype: torch.dtype) -> nn.Module:
    """The couplings 0..3 of one period, and 4: the affine transform behind them."""
    return Affine() if index == 4 else randomised(coupling(index, kind)).to(dtype)


def inputs(made: nn.Module, dtype: torch.dtype, batch: int = 16) -> tuple[Tensor, Tensor]:
    """Points (B, D) and codes (B, C)."""
    generator = torch.Generator().manual_seed(1)
    size = made.CODE_SIZE if isinstance(made, Affine) else made.conditioner.code_size
    x = torch.randn(batch, GRID.size, generator=generator, dtype=dtype)
    return x, 0.5 * torch.randn(batch, size, generator=generator, dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(5))
def test_forward_then_inverse_is_the_identity(index: int, kind: str) -> None:
    made = transform(index, kind, torch.float64)
    x, code = inputs(made, torch.float64)
    z, forward = made(x, code)
    back, inverse = made.inverse(z, code)
    assert (back - x).abs().max() < 1e-12
    assert (forward + inverse).abs().max() < 1e-12
    assert (z - x).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(5))
def test_log_det_is_that_of_the_jacobian(index: int, kind: str) -> None:
    made = transform(index, kind, torch.float64)
    x, code = inputs(made, torch.float64, batch=3)
    _, log_det = made(x, code)
    for row in range(len(x)):
        c = code[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, c=c: made(v[None], c)[0][0], x[row])
        assert abs(torch.linalg.slogdet(jacobian).logabsdet - log_det[row]) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(4))
def test_a_coupling_leaves_the_kept_dimensions_alone_and_does_not_read_the_moved(
    index: int, kind: str
) -> None:
    made, mask = transform(index, kind, torch.float32), parity_mask(index, GRID)
    x, code = inputs(made, torch.float32)
    z, log_det = made(x, code)
    assert torch.equal(z * mask, x * mask)
    assert ((z != x) * (1.0 - mask)).sum() > 0.9 * len(x) * (1.0 - mask).sum()
    assert torch.equal(log_det, made(x + (1.0 - mask), code)[1])


@pytest.mark.parametrize("grid", [Grid(5, 8), Grid(4, 3), Grid(1, 8), Grid(6, 1), Grid(1, 2)])
def test_four_couplings_move_every_dimension_twice(grid: Grid) -> None:
    moved = sum(1 - parity_mask(k, grid) for k in range(4))
    assert torch.equal(moved, torch.full((grid.size,), 2.0))


def test_masks_alternate_between_time_and_joint() -> None:
    assert parity_mask(0, GRID).reshape(GRID)[:, 0].tolist() == [1, 0, 1, 0, 1]
    assert parity_mask(1, GRID).reshape(GRID)[0].tolist() == [1, 0] * 4
    assert torch.equal(parity_mask(2, GRID), 1 - parity_mask(0, GRID))
    assert torch.equal(parity_mask(3, GRID), 1 - parity_mask(1, GRID))


@pytest.mark.parametrize("kind", KINDS)
def test_log_scale_stays_within_its_bound(kind: str) -> None:
    made = coupling(kind=kind, log_scale_max=0.5)
    randomised(made, scale=50.0)
    x, code = inputs(made, torch.float32)
    log_scale, _ = made.parameters_of(x[:, made.kept], code)
    assert log_scale.abs().max() <= 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_log_det_is_never_in_half_precision(kind: str) -> None:
    made = coupling(kind=kind).to(torch.bfloat16)
    _, log_det = made(*inputs(made, torch.bfloat16))
    assert log_det.dtype == torch.float32


def test_the_transformer_tells_time_steps_apart() -> None:
    """Equal tokens get different scales, by their positions alone."""
    made = transform(1, "transformer", torch.float32)
    code = torch.zeros(1, made.conditioner.code_size)
    log_scale, _ = made.parameters_of(torch.zeros(1, len(made.kept)), code)
    steps = log_scale.reshape(GRID.horizon, -1)[:, 0]
    assert steps.unique().numel() == GRID.horizon


def test_every_step_of_a_chunk_reaches_every_other_one_through_the_transformer() -> None:
    made = transform(1, "transformer", torch.float64)
    x, code = inputs(made, torch.float64, batch=1)
    jacobian = torch.autograd.functional.jacobian(lambda v: made(v, code)[0].reshape(GRID).sum(1), x)
    assert (jacobian.reshape(GRID.horizon, *GRID)[:, :, 0] != 0).all()


def test_an_unknown_conditioner_is_named() -> None:
    with pytest.raises(ValueError, match=r"'cnn'.*mlp, transformer"):
        build_conditioner(ConditionerShape(GRID, "cnn"), parity_mask(0, GRID))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width is 30, must be a multiple of heads = 4"):
        build_conditioner(ConditionerShape(GRID, "transformer", width=30), parity_mask(0, GRID))
