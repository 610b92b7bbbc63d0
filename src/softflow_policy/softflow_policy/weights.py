"""Weights as data: safetensors with metadata, checked before they may act. Never a pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Set
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from softflow_node.parameters import ParameterError, Validated, bounded, from_mapping
from softflow_policy.policy import ChunkPolicy, PlanError, chunk_noise
from softflow_policy.spec import PolicySpec

FORMAT = "softflow-weights/1"
MAX_BYTES = 256 * 2**20
"""[bytes] larger files are refused unread."""
TRIAL_LIMIT = 1e3
"""Magnitude of an action of the trial plan before the clip to [-1, 1], which would hide a broken flow."""
STAGES = ("imitation", "warmup", "offline", "online")


class WeightsError(ValueError):
    """Weights that must not act. The text names field, value and bound."""


@dataclasses.dataclass(frozen=True)
class WeightsInfo(Validated):
    """What travels with the weights."""

    version: int = bounded(1, low=1, doc="grows with every publication")
    parent: int = bounded(0, low=0, doc="version that it was trained from, 0 = none")
    gradient_step: int = bounded(0, low=0)
    stage: str = bounded("imitation", choices=STAGES)
    best_of: int = bounded(1, low=1, high=256, doc="candidates to draw: 1 until the critic has been trained")
    layout_hash: str = bounded("", doc="sha256 of the observation layout, hex")


def sha256(data: bytes) -> str:
    """Hex digest of a whole weights file."""
    return hashlib.sha256(data).hexdigest()


def encode_weights(policy: ChunkPolicy, info: WeightsInfo) -> bytes:
    """The weights file. The same weights and info give the same bytes."""
    about = {"format": FORMAT, "spec": json.loads(policy.spec.to_json()), "info": dataclasses.asdict(info)}
    # One key only: safetensors writes several in random order.
    metadata = {"softflow": json.dumps(about, sort_keys=True)}
    return save({k: v.detach().contiguous() for k, v in policy.state_dict().items()}, metadata)


def decode_weights(data: bytes, expected_sha256: str | None = None) -> tuple[ChunkPolicy, WeightsInfo]:
    """Build the policy from a weights file, in eval mode.

    Raises:
        WeightsError: wrong hash, truncated, foreign, of another spec, sizes that do not fit the spec, numbers
            that are not finite, or a trial plan that fails.
    """
    if len(data) > MAX_BYTES:
        raise WeightsError(f"size is {len(data)} bytes, must be at most {MAX_BYTES}")
    if expected_sha256 is not None and sha256(data) != expected_sha256:
        raise WeightsError(f"sha256 is {sha256(data)}, must be {expected_sha256}")
    spec, info = read_metadata(data)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"weights of {len(data)} bytes are not a valid safetensors file: {error}"
        ) from error
    policy = ChunkPolicy(spec)
    check_tensors(tensors, policy.state_dict())
    policy.load_state_dict(tensors)
    policy.eval().requires_grad_(False)
    _try_plan(policy, info)
    return policy, info


def read_header(data: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of length, little endian, then the text. Raises WeightsError."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise WeightsError(
            f"header length is {length} bytes, must be at most {max(0, len(data) - 8)}: truncated?"
        )
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise WeightsError(f"header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise WeightsError(f"header is a {type(header).__name__}, must be an object")
    return header


def read_metadata(data: bytes) -> tuple[PolicySpec, WeightsInfo]:
    """What a weights file says of itself. Raises WeightsError."""
    try:
        about = json.loads(_object(read_header(data), "__metadata__").get("softflow", "{}"))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"metadata 'softflow' is not JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise WeightsError(f"metadata 'format' is {found!r}, must be {FORMAT!r}")
    try:
        spec = PolicySpec.from_dict(_object(about, "spec"))
        return spec, from_mapping(WeightsInfo, _object(about, "info"), "WeightsInfo")
    except ParameterError as error:
        raise WeightsError(str(error)) from error


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise WeightsError(f"metadata {name!r} is {value!r}, must be an object")
    return value


def _few(names: Set[str]) -> str:
    """The first of them, and how many there are."""
    shown = ", ".join(sorted(names)[:3])
    return f"{shown}{', ...' if len(names) > 3 else ''} ({len(names)})"


def check_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Names, shapes, types and finiteness. Raises WeightsError."""
    if found.keys() != wanted.keys():
        missing, foreign = _few(wanted.keys() - found.keys()), _few(found.keys() - wanted.keys())
        raise WeightsError(
            f"tensors missing: {missing}; foreign: {foreign}; must be exactly those of the spec"
        )
    for name, tensor in sorted(found.items()):
        like = wanted[name]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            got = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise WeightsError(f"tensor {name!r} is {got}, must be {tuple(like.shape)} {like.dtype}")
        if not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise WeightsError(f"tensor {name!r} has {bad} numbers that are not finite, must have none")
        if name.endswith("normalizer.std") and not (tensor > 0).all():
            raise WeightsError(f"tensor {name!r} has minimum {float(tensor.min())}, must be > 0")


def _try_plan(policy: ChunkPolicy, info: WeightsInfo) -> None:
    """A plan at the data's mean state must come out finite and within bounds."""
    spec = policy.spec
    noise = chunk_noise(0, "trial", 0, info.best_of, spec.horizon, spec.action_dim)
    try:
        planned = policy.plan(policy.normalizer.mean.numpy(), noise, policy.blank())
    except PlanError as error:
        raise WeightsError(f"trial plan: {error}") from error
    if info.best_of > 1 and not np.isfinite(planned.q):
        raise WeightsError(f"trial plan: q is {planned.q}, must be finite")
    blank = {name: torch.from_numpy(image[None]) for name, image in policy.blank().items()}
    raw, _, _ = policy.candidates(policy.normalizer.mean[None], torch.from_numpy(noise), blank)
    worst = float(raw.abs().max())
    if not worst <= TRIAL_LIMIT:
        raise WeightsError(
            f"trial plan: magnitude of an action is {worst:g}, must be at most {TRIAL_LIMIT:g}"
        )
