"""Checkpoints of the whole learning state: safetensors and JSON in a directory, written atomically."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from softflow_learner.agent import Agent, frozen_copy
from softflow_learner.config import Config
from softflow_node.files import fsync
from softflow_node.parameters import from_mapping
from softflow_policy.spec import PolicySpec

FORMAT = "softflow-checkpoint/1"
TENSORS, STATE = "tensors.safetensors", "state.json"
PATTERN = re.compile(r"checkpoint_(\d{12})")
OPTIMIZERS = ("actor_optimizer", "critic_optimizer", "eyes_optimizer", "teller_optimizer")
MODULES = ("policy", "teller", "target_critic")
ACTORS = ("reference", "slow_actor")
"""Further actors, each there or None."""
COUNTERS = ("gradient_step", "skipped", "consecutive_skips", "beta_scale")

Extra = dict[str, Any]
"""JSON of whoever saves, e.g. the stage."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used. The text names the file, the field, the value and the bound."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint in memory."""

    agent: Agent
    extra: Extra
    path: Path
    refused: tuple[str, ...] = ()
    """Newer checkpoints that were found broken, and why."""


def save_checkpoint(root: Path, agent: Agent, extra: Extra | None = None, keep: int = 3) -> Path:
    """Write `root/checkpoint_<gradient step>` and remove all but the newest `keep`. Returns its path.

    It appears as a whole or not at all. Raises ValueError for keep < 1, OSError if the disk refuses.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, must be at least 1")
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"checkpoint_{agent.gradient_step:012d}"
    temporary = root / f".tmp_{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors, state = encode_agent(agent, extra)
    try:
        _write(temporary / TENSORS, tensors)
        _write(temporary / STATE, state)
        fsync(temporary)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # half of it would take the room that others need
        raise
    _replace(temporary, final)
    fsync(root)
    for old in list_checkpoints(root)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(root: Path) -> list[Path]:
    """Newest first."""
    found = root.iterdir() if root.is_dir() else ()
    return sorted((p for p in found if PATTERN.fullmatch(p.name) and p.is_dir()), reverse=True)


def load_latest(root: Path) -> Restored | None:
    """The newest checkpoint that is whole; None if there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and every one is broken.
    """
    refused: list[str] = []
    for path in list_checkpoints(root):
        try:
            return dataclasses.replace(load_checkpoint(path), refused=tuple(refused))
        except CheckpointError as error:
            refused.append(str(error))
    if refused:
        raise CheckpointError(f"{root}: no usable checkpoint: " + "; ".join(refused))
    return None


def load_checkpoint(path: Path) -> Restored:
    """The agent as it was: continuing gives bit-equal results.

    Raises:
        CheckpointError: missing or truncated file, wrong hash, foreign format, wrong sizes, or numbers
            that are not finite.
    """
    try:
        agent, extra = decode_agent((path / TENSORS).read_bytes(), (path / STATE).read_bytes())
        return Restored(agent, extra, path)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as error:
        reason = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: {reason}") from error


# -- Contents


def encode_agent(agent: Agent, extra: Extra | None = None) -> tuple[bytes, bytes]:
    """The whole learning state: tensors (safetensors) and the rest (JSON)."""
    tensors = save(_tensors(agent))
    return tensors, json.dumps(_state(agent, tensors, extra or {})).encode()


def decode_agent(data: bytes, text: bytes) -> tuple[Agent, Extra]:
    """The agent, on the CPU. Raises one of many errors if anything is wrong, see `load_checkpoint`."""
    state = json.loads(text)
    _check_state(state, data)
    agent = Agent(PolicySpec.from_dict(state["spec"]), from_mapping(Config, state["config"], "Config"))
    tensors = load(data)
    _add_actors(agent, tensors)
    _check_tensors(tensors, agent)
    _restore(agent, state, tensors)
    return agent, dict(state["extra"])


def _modules(agent: Agent) -> dict[str, nn.Module]:
    found = {name: getattr(agent, name) for name in MODULES + ACTORS}
    return {name: module for name, module in found.items() if module is not None}


def _optimizers(agent: Agent) -> dict[str, torch.optim.Optimizer]:
    found = {name: getattr(agent, name) for name in OPTIMIZERS}
    return {name: optimizer for name, optimizer in found.items() if optimizer is not None}


def _add_actors(agent: Agent, tensors: dict[str, Tensor]) -> None:
    """Make room for the further actors that a checkpoint has."""
    for name in ACTORS:
        if _under(tensors, name):
            setattr(agent, name, frozen_copy(agent.policy.flow))


def _tensors(agent: Agent) -> dict[str, Tensor]:
    """Every tensor of the agent under a flat name."""
    out = {f"{m}/{k}": v for m, module in _modules(agent).items() for k, v in module.state_dict().items()}
    for name, optimizer in _optimizers(agent).items():
        for index, moments in optimizer.state_dict()["state"].items():
            out |= {f"{name}/{index}/{k}": v for k, v in moments.items()}
    out["torch_rng"] = agent.torch_rng.get_state()
    return {name: tensor.detach().contiguous() for name, tensor in out.items()}


def _state(agent: Agent, tensors: bytes, extra: Extra) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "sha256": hashlib.sha256(tensors).hexdigest(),
        "torch": torch.__version__,
        "spec": dataclasses.asdict(agent.spec),
        "config": dataclasses.asdict(agent.config),
        "counters": {name: getattr(agent, name) for name in COUNTERS},
        "numpy_rng": agent.numpy_rng.bit_generator.state,
        "extra": extra,
    }


def _check_state(state: Any, tensors: bytes) -> None:
    found = state.get("format") if isinstance(state, dict) else state
    if found != FORMAT:
        raise CheckpointError(f"{STATE}: format is {found!r}, must be {FORMAT!r}")
    digest = hashlib.sha256(tensors).hexdigest()
    if digest != state["sha256"]:
        raise CheckpointError(f"{TENSORS}: sha256 is {digest}, must be {state['sha256']}")
    missing = [name for name in COUNTERS if name not in state["counters"]]
    if missing:
        raise CheckpointError(f"{STATE}: counters lack {missing}")


def _check_tensors(tensors: dict[str, Tensor], agent: Agent) -> None:
    """Names, sizes and finiteness."""
    states = {name: module.state_dict() for name, module in _modules(agent).items()}
    wanted = {f"{module}/{name}": v.shape for module, state in states.items() for name, v in state.items()}
    wanted["torch_rng"] = agent.torch_rng.get_state().shape
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZERS):
            optimizer, index, key = name.split("/")
            parameter = _parameters(_optimizers(agent)[optimizer])[int(index)]
            wanted[name] = parameter.shape if key != "step" else torch.Size([])
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{TENSORS}: {name} has numbers that are not finite")
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != wanted:
        names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        raise CheckpointError(f"{TENSORS}: missing, foreign or of the wrong size: {', '.join(names)}")


def _restore(agent: Agent, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for name, module in _modules(agent).items():
        module.load_state_dict(_under(tensors, name))
    for name, optimizer in _optimizers(agent).items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, name).items():
            index, moment = key.split("/")
            moments.setdefault(int(index), {})[moment] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    agent.torch_rng.set_state(tensors["torch_rng"])
    agent.numpy_rng.bit_generator.state = state["numpy_rng"]
    for name in COUNTERS:
        setattr(agent, name, state["counters"][name])


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    head = prefix + "/"
    return {name.removeprefix(head): t for name, t in tensors.items() if name.startswith(head)}


# -- Disk


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(temporary: Path, final: Path) -> None:
    """Rename into place. An older save of the same gradient step makes way first."""
    aside = temporary.with_name(temporary.name + "_old")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        final.rename(aside)
    temporary.rename(final)
    shutil.rmtree(aside, ignore_errors=True)
