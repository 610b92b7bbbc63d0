"""A success classifier as a file: what was written comes back, what was changed is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from softflow_policy.success.file import (
    MAX_BYTES,
    Classifier,
    ClassifierError,
    ClassifierInfo,
    decode_classifier,
    encode_classifier,
    load_classifier,
    save_classifier,
)
from softflow_policy.success.model import SuccessNet, SuccessSpec
from softflow_policy.success.scaling import sigmoid

SPEC = SuccessSpec(cameras="front+wrist", image_size=32, image_width=16, image_features=32)
INFO = ClassifierInfo(
    layout_hash="a" * 64, heights=(48, 64), widths=(64, 64), scale=0.5, bias=-1.0, threshold=0.9
)


@pytest.fixture(scope="module")
def made() -> Classifier:
    torch.manual_seed(0)
    return Classifier(SuccessNet(SPEC).eval().requires_grad_(False), INFO)


@pytest.fixture
def file(made: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "success.safetensors"
    save_classifier(path, made)
    return path


def test_what_was_written_judges_the_same_pictures_alike(made: Classifier, file: Path) -> None:
    again = load_classifier(file)
    assert again.info == INFO and again.net.spec == SPEC
    assert again.sizes == {"front": (48, 64), "wrist": (64, 64)}
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (5, 32, 32, 3)).astype(np.uint8) for name in SPEC.camera_names}
    said = again.probabilities(pictures)
    np.testing.assert_array_equal(said, made.probabilities(pictures))
    np.testing.assert_allclose(said, sigmoid(0.5 * made.net.judge(pictures) - 1.0))
    one_by_one = [again.probabilities({n: p[i : i + 1] for n, p in pictures.items()})[0] for i in range(5)]
    np.testing.assert_allclose(one_by_one, said, atol=1e-6)


def test_a_number_of_sizes_that_is_not_that_of_the_cameras_is_refused(made: Classifier) -> None:
    info = dataclasses.replace(INFO, heights=(48,))
    with pytest.raises(
        ClassifierError, match=r"heights, widths are \(48,\), \(64, 64\), must be one for each"
    ):
        decode_classifier(encode_classifier(Classifier(made.net, info)))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(
        ClassifierError, match=f"large.safetensors: size is {MAX_BYTES + 1} bytes, must be at most"
    ):
        load_classifier(path)


def test_a_classifier_file_that_is_not_what_was_written_is_refused(file: Path) -> None:
    data = file.read_bytes()
    assert decode_classifier(data).info == load_classifier(file).info
    rng = np.random.default_rng(0)
    for place in [*range(8), *rng.integers(8, len(data), 60).tolist()]:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ClassifierError):
            decode_classifier(bytes(changed))
    for size in (0, 7, 100, len(data) - 1):
        with pytest.raises(ClassifierError):
            decode_classifier(data[:size])
    broken = decode_classifier(data)
    with torch.no_grad():
        next(broken.net.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(ClassifierError, match="has 1 numbers that are not finite"):
        decode_classifier(encode_classifier(broken))
    other = Classifier(SuccessNet(dataclasses.replace(SPEC, image_features=16)), broken.info)
    other.net.spec = SPEC
    with pytest.raises(ClassifierError, match=r"is \(16,\) .*, must be \(32,\)"):
        decode_classifier(encode_classifier(other))
