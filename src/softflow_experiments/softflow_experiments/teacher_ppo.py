"""`./softflow train teacher`: a PPO teacher (Stable-Baselines3) with domain randomisation in simulation.

It starts from imitation of a scripted gait, so that PPO begins with a cube that turns (`imitation_updates=0`: from
scratch), and makes it faster, and sure on hands with which the blind gait drops the cube.

DIR/teacher.safetensors holds networks, normalisation and optimizer. Going on from it restores these and the count of
steps, not the random numbers and not the episodes under way: a resumed training is not bit-equal to an uninterrupted
one.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch import Tensor, nn

from softflow_experiments.gait import gait
from softflow_experiments.measuring import measured, play
from softflow_experiments.privileged import (
    INPUTS,
    PrivilegedCubeEnv,
    Teacher,
    TeacherError,
    TeacherFile,
    load_teacher_file,
    save_teacher,
)
from softflow_learner.session import parse_settings
from softflow_node.arguments import within
from softflow_node.parameters import Validated, bounded, from_mapping
from softflow_node.signals import StopFlag
from softflow_policy.normalizer import Normalizer

EVALUATION_SEED = 800_000_000
DUPLICATES = ("pi_features_extractor.", "vf_features_extractor.")
"""Names under which Stable-Baselines3 lists the shared normaliser again."""
COPIED = ("features_extractor.", *DUPLICATES)


@dataclass(frozen=True)
class TeacherConfig(Validated):
    """Settings of the teacher's training."""

    seed: int = bounded(0, low=0, high=2**31 - 1)
    width: int = bounded(128, low=8, high=1024, doc="of the two hidden layers of actor and critic")
    demonstrations: int = bounded(120, low=2, high=10**5, unit="episodes", doc="of the scripted gait")
    imitation_updates: int = bounded(3000, low=0, high=10**7, doc="0: PPO starts from scratch")
    # exp(-2) = 0.14: the gait survives such noise from step to step.
    initial_log_std: float = bounded(-2.0, low=-5.0, high=1.0)
    environments: int = bounded(8, low=1, high=256)
    # Each environment in a process of its own; otherwise all of them in this one.
    subprocesses: bool = False
    rollout_steps: int = bounded(256, low=8, high=10**5, unit="steps of each environment")
    batch_size: int = bounded(512, low=8, high=10**6)
    epochs: int = bounded(5, low=1, high=100)
    learning_rate: float = bounded(3e-4, low=1e-7, high=1e-1)
    gamma: float = bounded(0.99, low=0.0, high=1.0, unit="1/step")
    entropy: float = bounded(0.0, low=0.0, high=1.0)
    target_kl: float = bounded(0.03, low=1e-4, high=10.0)
    evaluation_episodes: int = bounded(8, low=1, high=1000, doc="between two parts of the training")
    smoothness: float = bounded(
        0.0, low=0.0, high=10.0, doc="reward lost for a squared change of action of 1"
    )


class Normalised(BaseFeaturesExtractor):
    """The inputs, normalised by fixed numbers."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, INPUTS)
        self.normalizer = Normalizer(INPUTS)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, INPUTS) -> (B, INPUTS)."""
        return self.normalizer(observations)


class TeacherTraining:
    """PPO in a directory; begins there, or goes on."""

    def __init__(self, directory: Path, config: TeacherConfig, log: Callable[[str], None] = print) -> None:
        """Raises TeacherError when there is a file that cannot be used."""
        self.directory, self.config, self.log = directory, config, log
        self.history: list[dict[str, float]] = []
        restored = load_teacher_file(directory) if (directory / "teacher.safetensors").exists() else None
        steps = int(restored.about["steps"]) if restored else 0
        self.model = new_model(config, seed=config.seed + steps)
        if restored:
            self._restore(restored)
            log(f"goes on from {steps} steps")
        else:
            imitate_gait(self.model, config, log)
            self._evaluate(0)

    def run(self, steps: int, save_every: int, stop: Callable[[], bool]) -> Teacher:
        """Train up to `steps` simulated steps in all; saves now and then, and at the end or when stopped."""
        model = self.model
        while model.num_timesteps < steps and not stop():
            until = min(steps, model.num_timesteps + save_every)
            start, before = time.monotonic(), model.num_timesteps
            model.learn(until - before, callback=_Stop(stop), reset_num_timesteps=False)
            self._evaluate((model.num_timesteps - before) / (time.monotonic() - start))
            self.save()
        self.save()
        return self.teacher()

    def save(self) -> None:
        """Write the file."""
        about = {
            "seed": self.config.seed,
            "steps": self.model.num_timesteps,
            "config": dataclasses.asdict(self.config),
            "history": self.history,
        }
        save_teacher(self.directory, _tensors(self.model), self._widths(), about)

    def teacher(self) -> Teacher:
        """As it is now."""
        about = {"steps": self.model.num_timesteps}
        return TeacherFile(_tensors(self.model), self._widths(), about).teacher()

    def _widths(self) -> tuple[int, int]:
        return (self.config.width, self.config.width)

    def _evaluate(self, rate: float) -> None:
        run = partial(play, teacher=self.teacher())
        found = measured(run, "randomised", EVALUATION_SEED, self.config.evaluation_episodes)
        rpm, drops = found["mean"], found["drops"]
        std = float(self.model.policy.log_std.detach().exp().mean())
        self.history.append({"steps": self.model.num_timesteps, "rpm": rpm, "drops": drops, "std": std})
        self.log(
            f"{self.model.num_timesteps} steps ({rate:.0f}/s): {rpm:.2f} rotations/min, drops {drops:.2f}, "
            f"std {std:.3f}"
        )

    def _restore(self, file: TeacherFile) -> None:
        about, model = file.about, self.model
        wanted = _tensors(model)
        found = {name: torch.from_numpy(array.copy()) for name, array in file.tensors.items()}
        policy = {n.removeprefix("policy/"): t for n, t in found.items() if n.startswith("policy/")}
        for name, array in wanted.items():
            if name not in found or tuple(found[name].shape) != array.shape:
                shape = tuple(found[name].shape) if name in found else None
                raise TeacherError(
                    f"{self.directory}: tensor {name!r} has shape {shape}, must have {array.shape} "
                    "(the settings that the training began with hold for its networks)"
                )
        shared = {n: t for n, t in policy.items() if n.startswith("features_extractor.")}
        for prefix in DUPLICATES:
            policy |= {n.replace("features_extractor.", prefix, 1): t for n, t in shared.items()}
        model.policy.load_state_dict(policy)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in found.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                moments.setdefault(int(index), {})[key] = tensor
        self._check_moments(moments)
        groups = model.policy.optimizer.state_dict()["param_groups"]
        model.policy.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        model.num_timesteps = int(about["steps"])
        self.history = list(about.get("history", []))

    def _check_moments(self, moments: dict[int, dict[str, Tensor]]) -> None:
        parameters = list(self.model.policy.parameters())
        for index, found in moments.items():
            wanted = tuple(parameters[index].shape) if index < len(parameters) else None
            for key, tensor in found.items():
                if tuple(tensor.shape) != (() if key == "step" else wanted):
                    raise TeacherError(
                        f"{self.directory}: tensor 'optimizer/{index}/{key}' has shape {tuple(tensor.shape)}, "
                        f"must have {() if key == 'step' else wanted}"
                    )


class _Stop(BaseCallback):
    """Ends a training when asked to."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        super().__init__()
        self._asked = stop

    def _on_step(self) -> bool:
        return not self._asked()


def new_model(config: TeacherConfig, seed: int) -> PPO:
    """PPO before its first update, with its environments."""
    model = PPO(
        "MlpPolicy",
        _environments(config),
        learning_rate=config.learning_rate,
        n_steps=config.rollout_steps,
        batch_size=config.batch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        ent_coef=config.entropy,
        target_kl=config.target_kl,
        seed=seed % 2**31,
        device="cpu",
        policy_kwargs={
            "net_arch": [config.width, config.width],
            "activation_fn": nn.Tanh,
            "log_std_init": config.initial_log_std,
            "features_extractor_class": Normalised,
        },
    )
    # Its own would make a folder for the machine's temporary files that nobody reads.
    model.set_logger(Logger(None, []))
    return model


def _environments(config: TeacherConfig) -> VecEnv:
    makers = [partial(PrivilegedCubeEnv, "randomised", config.smoothness)] * config.environments
    if not config.subprocesses:
        return DummyVecEnv(makers)
    return SubprocVecEnv(makers, start_method="forkserver")


def _tensors(model: PPO) -> dict[str, np.ndarray]:
    policy = model.policy.state_dict()
    out = {f"policy/{n}": t for n, t in policy.items() if not n.startswith(DUPLICATES)}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        out |= {f"optimizer/{index}/{key}": t for key, t in moments.items()}
    return {name: tensor.detach().numpy().copy() for name, tensor in out.items()}


def imitate_gait(model: PPO, config: TeacherConfig, log: Callable[[str], None]) -> None:
    """Normalisation from the gait's states; actor and critic by regression on it."""
    env = PrivilegedCubeEnv("randomised", config.smoothness)
    found = gait(env, config.demonstrations, config.seed, config.gamma)
    inputs, actions, returns = (torch.from_numpy(array) for array in found)
    model.policy.features_extractor.normalizer.fit(inputs)
    policy, rng = model.policy, torch.Generator().manual_seed(config.seed)
    parameters = [p for name, p in policy.named_parameters() if name != "log_std"]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    loss = torch.zeros(())
    for update in range(config.imitation_updates):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1.0 - update / config.imitation_updates)
        chosen = torch.randint(len(inputs), (512,), generator=rng)
        features = policy.extract_features(inputs[chosen])
        latent_actor, latent_critic = policy.mlp_extractor(features)
        errors = policy.action_net(latent_actor) - actions[chosen]
        value_errors = policy.value_net(latent_critic).squeeze(-1) - returns[chosen]
        loss = errors.square().mean()
        optimizer.zero_grad()
        (loss + 0.01 * value_errors.square().mean()).backward()
        optimizer.step()
    log(
        f"gait: {len(inputs)} steps, mean return {returns.mean():.2f}; imitation: mean square error {loss:.4f}"
    )


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 2 after an error in what was asked for, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="softflow train teacher", description=__doc__)
    parser.add_argument("--steps", type=within(int, 1, 10**9), default=300_000, help="simulated, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the teacher; goes on from it if there is one"
    )
    parser.add_argument(
        "--save-every",
        type=within(int, 1, 10**9),
        default=50_000,
        help="[steps] between two evaluations and saves",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a field of TeacherConfig"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        settings = {"seed": options.seed, **parse_settings(options.set)}
        config = from_mapping(TeacherConfig, settings, "settings")
        stop = StopFlag.install()
        training = TeacherTraining(options.out, config, lambda text: print(text, flush=True))
        training.run(options.steps, options.save_every, stop.is_set)
    except (ValueError, OSError) as error:
        print(f"softflow train teacher: {error}", file=sys.stderr)
        return 2
    return 130 if stop.is_set() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
