"""A classifier as a file: safetensors with its spec and calibration, checked before it may judge. Never a pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from softflow_node.files import write_atomically
from softflow_node.parameters import ParameterError, Validated, bounded, from_mapping
from softflow_node.pictures import Sizes
from softflow_policy.success.model import SuccessNet, SuccessSpec, Thumbnails
from softflow_policy.success.scaling import Scaling
from softflow_policy.weights import WeightsError, check_tensors, read_header

FORMAT = "softflow-classifier/1"
MAX_BYTES = 64 * 2**20
"""[bytes] larger files are refused unread."""


class ClassifierError(ValueError):
    """A classifier that must not judge. The text names file, field, value and bound."""


@dataclasses.dataclass(frozen=True)
class ClassifierInfo(Validated):
    """What travels with the network."""

    layout_hash: str = bounded("", doc="sha256 of the task's observation layout, hex")
    heights: tuple[int, ...] = bounded((), doc="of each camera's pictures [pixels]")
    widths: tuple[int, ...] = bounded((), doc="of each camera's pictures [pixels]")
    success_reward: float = bounded(1.0, doc="of a step that succeeds")
    scale: float = bounded(1.0, low=1e-6, doc="probability = sigmoid(scale * logit + bias); 1 / temperature")
    bias: float = bounded(0.0)
    threshold: float = bounded(0.5, low=0.0, high=1.0, doc="a success from this probability on")
    precision_wanted: float = bounded(0.99, low=0.0, high=1.0)
    precision: float = bounded(0.0, low=0.0, high=1.0, doc="of the threshold on the test's pictures; 0: none")
    recall: float = bounded(0.0, low=0.0, high=1.0)
    calibration_error: float = bounded(0.0, low=0.0, high=1.0, doc="expected, on the test's pictures")
    seed: int = bounded(0, low=0)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network with what makes its logits a decision."""

    net: SuccessNet
    info: ClassifierInfo

    @property
    def sizes(self) -> Sizes:
        """Of the pictures that it was trained on."""
        pairs = zip(self.info.heights, self.info.widths, strict=True)
        return dict(zip(self.net.spec.camera_names, pairs, strict=True))

    def probabilities(self, thumbnails: Thumbnails) -> NDArray[np.float64]:
        """(N,) that pictures show a success."""
        return Scaling(self.info.scale, self.info.bias)(self.net.judge(thumbnails))


def encode_classifier(classifier: Classifier) -> bytes:
    """The file's bytes."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in classifier.net.state_dict().items()}
    about = {
        "format": FORMAT,
        "spec": dataclasses.asdict(classifier.net.spec),
        "info": dataclasses.asdict(classifier.info),
    }
    return save(
        tensors, {"softflow": json.dumps({**about, "sha256": _digest(about, tensors)}, sort_keys=True)}
    )


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """sha256 of what the file says of itself and of every number in it, hex."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def decode_classifier(data: bytes) -> Classifier:
    """Build a classifier of a file's bytes, in eval mode.

    Raises:
        ClassifierError: too large, truncated, foreign, changed since it was written, or not what its spec says.
    """
    if len(data) > MAX_BYTES:
        raise ClassifierError(f"size is {len(data)} bytes, must be at most {MAX_BYTES}")
    try:
        about, tensors = _about(data), _tensors(data)
        written = about.pop("sha256", None)
        if (found := _digest(about, tensors)) != written:
            raise ClassifierError(f"sha256 is {found}, must be {written}: changed since it was written")
        spec = from_mapping(SuccessSpec, about["spec"], "SuccessSpec")
        info = from_mapping(ClassifierInfo, about["info"], "ClassifierInfo")
        if not len(info.heights) == len(info.widths) == len(spec.camera_names):
            raise ClassifierError(
                f"heights, widths are {info.heights}, {info.widths}, must be one for each of "
                f"{', '.join(spec.camera_names)}"
            )
        net = SuccessNet(spec)
        check_tensors(tensors, net.state_dict())
    except (WeightsError, ParameterError) as error:
        raise ClassifierError(str(error)) from error
    net.load_state_dict(tensors)
    return Classifier(net.eval().requires_grad_(False), info)


def _about(data: bytes) -> dict[str, Any]:
    """What the file says of itself. Raises ClassifierError, WeightsError."""
    metadata = read_header(data).get("__metadata__")
    text = metadata.get("softflow", "null") if isinstance(metadata, dict) else "null"
    try:
        about = json.loads(text)
    except (ValueError, TypeError) as error:
        raise ClassifierError(f"metadata 'softflow' is not JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise ClassifierError(f"metadata 'format' is {found!r}, must be {FORMAT!r}")
    for name in ("spec", "info"):
        if not isinstance(about.get(name), dict):
            raise ClassifierError(f"metadata {name!r} is {about.get(name)!r}, must be an object")
    return about


def _tensors(data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except (SafetensorError, ValueError) as error:
        raise ClassifierError(f"{len(data)} bytes are not a valid safetensors file: {error}") from error


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write durably: the old file or the new one, whatever happens. Raises OSError."""
    write_atomically(path, encode_classifier(classifier))


def load_classifier(path: Path) -> Classifier:
    """Read and check. Raises ClassifierError with the file's name, OSError."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ClassifierError(f"{path}: size is {size} bytes, must be at most {MAX_BYTES}")
    try:
        return decode_classifier(path.read_bytes())
    except ClassifierError as error:
        raise ClassifierError(f"{path}: {error}") from error
