"""A learner's run directory: checkpoints, weights on offer, logs, status. Plain Python, under CLI and node alike.

RUN/checkpoints/     everything needed to go on
RUN/weights/         the last weights on offer, by version
RUN/policies/        weights at the end of each stage
RUN/experience/      what robots handed over
RUN/tensorboard/     scalars
RUN/status.json      where it stands, about once a second
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

from softflow_learner.agent import Agent, Scalars
from softflow_learner.bags import load_bags
from softflow_learner.checkpoint import Extra, load_latest, save_checkpoint
from softflow_learner.config import Config
from softflow_learner.parallel import Alone
from softflow_learner.replay import Replay
from softflow_learner.shelf import Offer, Shelf
from softflow_node.files import write_atomically
from softflow_node.parameters import ParameterError, from_mapping
from softflow_policy.spec import PolicySpec
from softflow_policy.versions import State
from softflow_policy.weights import WeightsInfo, decode_weights, encode_weights, sha256
from softflow_tasks.task import Task

LOG_EVERY = 20
"""Updates between two points in TensorBoard."""


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as fields of `Config` or `PolicySpec`, values in YAML. Raises ValueError at any other form."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"setting {pair!r}: must have the form name=value")
        settings[name.strip()] = yaml.safe_load(text)
    return settings


ONLINE_COUNTS = ("online_rounds", "online_rate")
"""Of `extra`: updates done for the run's experience, see `OnlineLearning.counts`."""


SPEC_SETTINGS = {field.name for field in dataclasses.fields(PolicySpec)} - {"state_dim", "action_dim"}
"""What a setting may say about the networks; the other two numbers are the task's."""


TRUNK = "encoder_weights"
"""A setting of a new run: the file that a frozen encoder is taken from."""


def new_agent(task: Task, settings: Mapping[str, Any]) -> Agent:
    """Before its first update. Raises ParameterError, TrunkError."""
    settings = resolved(task, settings)
    shape = {name: value for name, value in settings.items() if name in SPEC_SETTINGS}
    shape |= {"state_dim": task.layout.size, "action_dim": task.action_dim}
    if settings.get("critic") == "per_step":
        shape.setdefault("horizon", 1)
    rest = {n: v for n, v in settings.items() if n not in SPEC_SETTINGS and n != TRUNK}
    agent = Agent(from_mapping(PolicySpec, shape, "settings"), from_mapping(Config, rest, "settings"))
    trunk = settings.get(TRUNK)
    if (agent.spec.encoder == "resnet18") != bool(trunk):
        raise ParameterError(
            f"settings: parameter {TRUNK!r} is {trunk!r}, must be a safetensors file with resnet18, "
            "nothing with another encoder"
        )
    if trunk and agent.policy.eyes is not None:
        agent.policy.eyes.take_trunks(Path(str(trunk)))
    return agent


def resolved(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with `hidden`, names of the task's blocks with + between them, as entries of the state.

    Raises ParameterError for a block that the task has not.
    """
    text = settings.get("hidden")
    if not isinstance(text, str):
        return dict(settings)
    slices = task.layout.slices()
    names = text.split("+") if text else []
    for name in names:
        if name not in slices:
            raise ParameterError(
                f"settings: parameter 'hidden' names {name!r}; blocks of {task.id}: {', '.join(slices)}"
            )
    entries = (range(slices[name].start, slices[name].stop) for name in slices if name in names)
    return {**settings, "hidden": tuple(itertools.chain(*entries))}


def new_replay(agent: Agent, directory: Path | None = None, *, least: int = 0) -> Replay:
    """An empty one that fits the agent, with room for at least so many steps, whatever its settings say.

    `directory` for its file, where its settings want one.
    """
    spec, config = agent.spec, agent.config
    return Replay(
        spec.state_dim,
        spec.action_dim,
        config.window_steps(spec),
        config.gamma,
        actions=spec.horizon,
        capacity=max(config.replay_capacity, least),
        holdout_every=config.holdout_every,
        chunk_end=config.chunk_end,
        directory=directory if config.replay_on_disk else None,
        cameras=spec.camera_names,
        image_size=spec.image_size,
    )


def change_settings(agent: Agent, settings: Mapping[str, Any]) -> None:
    """Settings of a restored agent: its config changes, its networks cannot. Raises ParameterError."""
    values = dataclasses.asdict(agent.config)
    for name, value in settings.items():
        if name == TRUNK:
            continue  # The checkpoint has its numbers.
        if name not in SPEC_SETTINGS:
            values[name] = value
        elif value != getattr(agent.spec, name):
            raise ParameterError(
                f"settings: parameter {name!r} is {value!r}, the checkpoint has {getattr(agent.spec, name)!r}; "
                "networks are set before imitation, in a new run"
            )
    agent.configure(from_mapping(Config, values, "settings"))


class Session:
    """One learner at work in one run directory."""

    def __init__(
        self,
        run: Path,
        task: Task,
        seed: int,
        settings: Mapping[str, Any] | None = None,
        resume: Path | None = None,
        world: Alone | None = None,
    ) -> None:
        """Go on from the newest good checkpoint of the run, else of the run `resume`, or begin.

        What `extra` says of experience, ONLINE_COUNTS, is taken from the run's own checkpoint only.
        `settings` are fields of `Config` and, in a new run, of `PolicySpec`; those of a checkpoint hold where
        none are given. Updates are shared with the processes of `world`, and worked out on its device.

        Raises:
            ParameterError: a setting is unknown, out of bounds, or asks for other networks than the checkpoint's.
            CheckpointError: there are checkpoints and none is usable.
            ShelfError: the record of the versions on offer cannot be read.
        """
        self.run, self.task = run, task
        own = restored = load_latest(run / "checkpoints")
        if restored is None and resume is not None:
            restored = load_latest(resume / "checkpoints")
        self.resumed = restored is not None
        self.refused = restored.refused if restored else ()
        """Newer checkpoints that are damaged, and why."""
        self.extra: Extra = dict(restored.extra) if restored else {}
        if own is None:
            # They count the experience of the other run, which stays there.
            for name in ONLINE_COUNTS:
                self.extra.pop(name, None)
        self.stage = str(self.extra.get("stage", ""))
        if restored:
            self.agent = restored.agent
            change_settings(self.agent, resolved(task, settings or {}))
        else:
            self.agent = new_agent(task, {"seed": seed, **(settings or {})})
        if world is not None:
            self.agent.join(world)
        self.replay = new_replay(self.agent, run / "replay")
        self.shelf = Shelf(run / "weights")
        self.version = max(self.shelf.newest, int(self.extra.get("policy_version", 0)))
        self._trained_from = self.version
        self.scalars: Scalars = {}
        self.updates_per_second = 0.0
        self._writer: SummaryWriter | None = None
        self._updates = 0
        self._rate_from = (time.monotonic(), 0)
        self._status_at = 0.0

    def load_demonstrations(self, directory: Path) -> list[str]:
        """Fill the replay's offline part; returns a line for each bag that was refused. Raises ValueError."""
        only = self.agent.config.successful_demonstrations
        _, refused = load_bags(self.replay, directory, self.task.layout.hash, successful_only=only)
        if not self.resumed:
            self.agent.fit_normalizer(self.replay.states("offline"))
        return refused

    def record(self, step: int, total: int, scalars: Scalars) -> None:
        """After each update: TensorBoard, rate, status file. Raises OSError."""
        before = self._rate_from
        if self.count(scalars):
            self.log(scalars)
        if self._rate_from != before:
            self.write_status(step, total)

    def count(self, scalars: Scalars) -> bool:
        """After each update: rate, and whether it is time for a point in TensorBoard."""
        self.scalars = {**self.scalars, **scalars}
        self._updates += 1
        now = time.monotonic()
        since, count = self._rate_from
        if now - since >= 1.0:
            self.updates_per_second = (self._updates - count) / (now - since)
            self._rate_from = (now, self._updates)
        return self._updates % LOG_EVERY == 0

    def log(self, scalars: Scalars) -> None:
        """A point in TensorBoard. Raises OSError; a writer that failed is done with, the next point has another."""
        try:
            for name, value in scalars.items():
                self.writer.add_scalar(f"{self.stage}/{name}", value, self.agent.gradient_step)
        except OSError:
            self._writer = None
            raise

    @property
    def writer(self) -> SummaryWriter:
        """TensorBoard; opened when first used."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self.run / "tensorboard"))
        return self._writer

    def write_status(self, step: int, total: int) -> None:
        """Tell whoever watches the run directory where the stage stands. Raises OSError."""
        status = {
            "stage": self.stage,
            "step": step,
            "total": total,
            "gradient_step": self.agent.gradient_step,
            "skipped": self.agent.skipped,
            "updates_per_second": self.updates_per_second,
            "policy_version": self.version,
            "online_steps": self.replay.online_steps,
            "scalars": self.scalars,
        }
        write_atomically(self.run / "status.json", json.dumps(status, indent=1).encode())

    def publish(self, state: State = State.ACTIVE, reason: str = "") -> Offer:
        """Put the policy as it is now on the shelf under the next version. Raises OSError: it is not on it."""
        spec = self.agent.spec
        info = WeightsInfo(
            version=self.version + 1,
            parent=self._trained_from,
            gradient_step=self.agent.gradient_step,
            stage=self.stage,
            best_of=1 if self.stage == "imitation" else spec.best_of,
            layout_hash=self.task.layout.hash,
        )
        offer = _offer(encode_weights(self.agent.acting_policy(), info), info, spec)
        self._trained_from = self._put(offer, state, reason)
        return offer

    def republish(self, version: int, reason: str) -> Offer:
        """Put weights that were rolled back in force again, under the next version: a number never comes back.

        Raises:
            ShelfError: the version is not on the shelf, or damaged.
        """
        policy, info = decode_weights(self.shelf.offer(version).data)
        info = dataclasses.replace(info, version=self.version + 1, parent=version)
        offer = _offer(encode_weights(policy, info), info, policy.spec)
        self._put(offer, State.ACTIVE, f"the weights of version {version}: {reason}")
        return offer

    def skip_to(self, version: int) -> None:
        """The next version is greater than this one, which somebody else has made."""
        self.version = max(self.version, version)

    def _put(self, offer: Offer, state: State, reason: str) -> int:
        self.shelf.put(offer, state, reason)
        self.version = offer.info.version
        return self.version

    def save(self) -> Path:
        """Write a checkpoint. Raises OSError."""
        self.extra["stage"] = self.stage
        self.extra["policy_version"] = self.version
        return save_checkpoint(self.run / "checkpoints", self.agent, self.extra)

    def finish_stage(self, state: State = State.ACTIVE) -> Path:
        """Checkpoint, and the stage's weights on the shelf and under its name; returns their path. Raises OSError."""
        offer = self.publish(state)
        self.save()
        path = self.run / "policies" / f"{self.stage}.safetensors"
        write_atomically(path, offer.data)
        self.writer.flush()
        return path

    def close(self) -> None:
        """Flush the logs."""
        if self._writer is not None:
            self._writer.close()


def _offer(data: bytes, info: WeightsInfo, spec: PolicySpec) -> Offer:
    return Offer(info, data, sha256(data), spec.spec_hash())
