"""What a policy is made of, as data: the learner and the robot build the same networks from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from softflow_node.parameters import ParameterError, Validated, bounded, from_mapping
from softflow_node.topics import parse_cameras


@dataclasses.dataclass(frozen=True)
class PolicySpec(Validated):
    """Sizes of the policy's networks. Two policies can exchange weights if their `spec_hash` is the same."""

    state_dim: int = bounded(34, low=1, high=4096, doc="length of the observation's state vector")
    horizon: int = bounded(5, low=1, high=64, unit="steps", doc="h, actions in a chunk")
    action_dim: int = bounded(8, low=1, high=64, doc="A, numbers in an action")
    policy: str = bounded("flow", choices=("flow", "gaussian", "flow_matching"), doc="family of the policy")
    couplings: int = bounded(6, low=1, high=32, doc="K; an even number moves every dimension equally often")
    conditioner: str = bounded("mlp", choices=("mlp", "transformer"), doc="network inside a coupling")
    width: int = bounded(128, low=4, high=2048, doc="hidden units of the flow's encoder and conditioners")
    conditioner_layers: int = bounded(2, low=1, high=8, doc="hidden layers or blocks of a conditioner")
    conditioner_heads: int = bounded(4, low=1, high=64, doc="attention heads of the transformer")
    log_scale_max: float = bounded(2.0, low=0.1, high=5.0, doc="s_max, bound on a coupling's log-scale")
    euler_steps: int = bounded(10, low=1, high=1000, doc="of flow matching, from noise to chunk")
    critic_width: int = bounded(256, low=4, high=2048, doc="hidden units of a critic")
    critic_layers: int = bounded(3, low=1, high=8, doc="hidden layers of a critic")
    critic_members: int = bounded(2, low=1, high=16, doc="critics in the ensemble")
    cameras: str = bounded("", doc="whose pictures the networks see, with + between them; empty = none")
    image_size: int = bounded(64, low=16, high=256, unit="pixels", doc="side of a picture as networks see it")
    encoder: str = bounded(
        "small", choices=("small", "resnet18"), doc="of pictures; resnet18: its first half, trained by others"
    )
    image_width: int = bounded(32, low=16, high=512, doc="channels of the small encoder")
    image_features: int = bounded(64, low=4, high=2048, doc="numbers that a picture becomes")
    hidden: tuple[int, ...] = bounded((), doc="entries of the state that the networks must not see")
    best_of: int = bounded(
        4, low=1, high=256, doc="chunks drawn when acting, of which the critic takes the best"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy == "flow" and self.chunk_dim < 2:
            raise ParameterError(
                "PolicySpec: horizon * action_dim is 1, must be at least 2 for a coupling flow"
            )
        if self.conditioner == "transformer" and self.width % self.conditioner_heads:
            raise ParameterError(
                f"PolicySpec: width is {self.width}, must be a multiple of "
                f"conditioner_heads = {self.conditioner_heads}"
            )

        try:
            parse_cameras(self.cameras)
        except ValueError as error:
            raise ParameterError(f"PolicySpec: {error}") from error
        if self.image_width % 16:
            raise ParameterError(f"PolicySpec: image_width is {self.image_width}, must be a multiple of 16")
        if any(not 0 <= index < self.state_dim for index in self.hidden):
            raise ParameterError(
                f"PolicySpec: hidden is {list(self.hidden)}, must be indices in [0, {self.state_dim - 1}]"
            )

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Of the cameras, in the order in which their codes follow the state."""
        return parse_cameras(self.cameras)

    @property
    def input_dim(self) -> int:
        """Numbers that actor and critic know a state by: the state's, then each picture's code."""
        return self.state_dim + len(self.camera_names) * self.image_features

    @property
    def chunk_dim(self) -> int:
        """D = h * A."""
        return self.horizon * self.action_dim

    def to_json(self) -> str:
        """Canonical: sorted keys, no spaces."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PolicySpec:
        """Raises ParameterError for an unknown name or a bad value."""
        return from_mapping(cls, values, "PolicySpec")

    def spec_hash(self) -> str:
        """sha256 of the canonical JSON, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
