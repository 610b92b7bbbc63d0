"""The pictures' encoder, the augmentation, and a policy that sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from softflow_node.parameters import ParameterError
from softflow_node.pictures import FORMAT, FrameError, encode_jpeg, thumbnail
from softflow_policy.eyes import Eyes, PictureEncoder, random_shift, spatial_softmax
from softflow_policy.policy import ChunkPolicy, PlanError, chunk_noise
from softflow_policy.resnet import ResNetTrunk, TrunkError
from softflow_policy.sight import DEPTH, Sight
from softflow_policy.spec import PolicySpec
from softflow_policy.weights import WeightsInfo, decode_weights, encode_weights

SPEC = PolicySpec(
    state_dim=3, horizon=2, action_dim=2, couplings=2, width=16, critic_width=16, critic_layers=1,
    cameras="front+wrist", image_size=32, image_width=16, image_features=8, hidden=(1,),
)  # fmt: skip
NOISE = chunk_noise(0, "eyes", 0, 4, 2, 2)


def policy() -> ChunkPolicy:
    """With weights of which every one matters."""
    torch.manual_seed(0)
    made = ChunkPolicy(SPEC).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def images(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for name in SPEC.camera_names}


def test_spatial_softmax_says_where_a_map_is_high() -> None:
    maps = torch.full((1, 2, 5, 9), -50.0)
    maps[0, 0, 4, 0] = maps[0, 1, 2, 6] = 50.0
    assert spatial_softmax(maps).tolist() == [pytest.approx([-1.0, 0.5, 1.0, 0.0])]


def test_a_random_shift_is_a_crop_of_the_padded_picture() -> None:
    pictures = torch.randint(0, 256, (6, 20, 24, 3), dtype=torch.uint8)
    limit = 4
    offsets = torch.randint(-limit, limit + 1, (6, 2))
    padded = F.pad(pictures.permute(0, 3, 1, 2).float(), (limit,) * 4, mode="replicate")
    for row, (down, right) in enumerate(offsets.tolist()):
        top, left = limit - down, limit - right
        crop = padded[row, :, top : top + 20, left : left + 24].permute(1, 2, 0)
        assert torch.equal(random_shift(pictures, offsets)[row], crop.to(torch.uint8))


def test_the_encoder_is_the_same_in_training_and_acting_and_sees_every_pixels_colour() -> None:
    encoder, picture = PictureEncoder(16, 8), torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    trained = encoder.train()(picture)
    assert torch.equal(trained, encoder.eval()(picture))
    assert torch.allclose(trained[:1], encoder(picture[:1]), atol=1e-6)
    assert not torch.allclose(trained, encoder(picture.flip(-1)), atol=1e-3)  # BGR in place of RGB


def test_both_cameras_and_no_hidden_entry_change_the_plan() -> None:
    acting, state, seen = policy(), np.zeros(3, np.float32), images()
    planned = acting.plan(state, NOISE, seen).actions
    for name in SPEC.camera_names:
        other = acting.plan(state, NOISE, {**seen, name: images(1)[name]}).actions
        assert not np.allclose(other, planned, atol=1e-4)
    assert np.array_equal(acting.plan(np.array([0, 5.0, 0]), NOISE, seen).actions, planned)
    assert not np.allclose(acting.plan(np.array([0, 0, 5.0]), NOISE, seen).actions, planned, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"wrist": None}, "images has no camera 'wrist', must have front.wrist"),
        (
            {"wrist": np.zeros((16, 32, 3), np.uint8)},
            r"images\['wrist'\] is \(16, 32, 3\) uint8, must be \(32, 32, 3\)",
        ),
        ({"wrist": np.zeros((32, 32, 3))}, r"images\['wrist'\] is \(32, 32, 3\) float64"),
    ],
)
def test_pictures_that_do_not_fit_are_named(change: dict[str, np.ndarray | None], text: str) -> None:
    given = {k: v for k, v in {**images(), **change}.items() if v is not None}
    with pytest.raises(PlanError, match=text):
        policy().plan(np.zeros(3), NOISE, given)


def test_weights_with_eyes_come_back_and_plan_the_same() -> None:
    sent = policy()
    came, _ = decode_weights(encode_weights(sent, WeightsInfo()))
    assert came.spec == SPEC
    one, two = (p.plan(np.ones(3), NOISE, images()).actions for p in (sent, came))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"cameras": "front+front"}, "cameras is 'front\\+front'"),
        ({"cameras": "front+"}, "cameras is 'front\\+'"),
        ({"hidden": (3,)}, r"hidden is \[3\], must be indices in \[0, 2\]"),
        ({"image_width": 24}, "image_width is 24, must be a multiple of 16"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        dataclasses.replace(SPEC, **values)  # type: ignore[arg-type]


TOPICS = ("/hand0/camera/front/image/compressed", "/hand0/camera/wrist/image/compressed")


def test_an_observations_own_pictures_are_looked_at() -> None:
    sight = Sight(TOPICS)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (DEPTH + 2, 6, 8, 3)).astype(np.uint8)
    shown = coarse.repeat(8, axis=1).repeat(8, axis=2)
    files = [encode_jpeg(image, 90) for image in shown]
    for stamp, data in enumerate(files):
        sight.add(TOPICS[0], stamp, FORMAT, data)
    named = [f"{TOPICS[0]}@5", f"{TOPICS[1]}@7"]
    assert sight.look(named, ("front", "wrist"), 32) is None
    sight.add(TOPICS[1], 7, FORMAT, files[0])
    seen = sight.look(named, ("front", "wrist"), 32)
    assert seen is not None and list(seen) == ["front", "wrist"]
    assert np.abs(seen["front"].astype(int) - thumbnail(shown[5], 32)).mean() < 12.0
    assert sight.look([f"{TOPICS[0]}@1"], ("front",), 32) is None  # forgotten
    with pytest.raises(FrameError, match="names no picture of camera 'wrist'"):
        sight.look(named[:1], ("front", "wrist"), 32)
    with pytest.raises(FrameError, match="format is 'h264'"):
        sight.add(TOPICS[0], 99, "h264", files[0])
    sized = Sight(TOPICS, {"front": (48, 64), "wrist": (64, 64)})
    for topic in TOPICS:
        sized.add(topic, 7, FORMAT, files[0])
    both = [f"{topic}@7" for topic in TOPICS]
    assert sized.cameras == ("front", "wrist") and sized.look(both, ("front",), 32) is not None
    with pytest.raises(FrameError, match="picture of camera 'wrist' is 64x48, must be 64x64"):
        sized.look(both, ("front", "wrist"), 32)
    sight.add(TOPICS[0], 98, FORMAT, b"no picture")
    with pytest.raises(FrameError, match="10 bytes are not a JPEG or PNG picture"):
        sight.look([f"{TOPICS[0]}@98"], ("front",), 32)


def trunk_file(path: Path, **changes: torch.Tensor | None) -> Path:
    """A checkpoint of a whole ResNet-18 would have more; these are the tensors that are used."""
    torch.manual_seed(1)
    tensors = {
        name: torch.rand_like(t.float()).to(t.dtype) + 0.1 for name, t in ResNetTrunk().state_dict().items()
    }
    tensors |= {"fc.weight": torch.zeros(1000, 512)} | changes
    save_file({name: t.contiguous() for name, t in tensors.items() if t is not None}, path)
    return path


def test_a_trunk_of_others_is_taken_over_and_stays_as_it_is(tmp_path: Path) -> None:
    eyes = Eyes(dataclasses.replace(SPEC, encoder="resnet18"))
    pictures = {name: torch.from_numpy(image[None]) for name, image in images().items()}
    eyes.take_trunks(trunk_file(tmp_path / "trunk.safetensors"))
    before = {name: tensor.clone() for name, tensor in eyes.state_dict().items()}
    trained = eyes.train()(pictures)
    assert torch.equal(trained, eyes.eval()(pictures))
    assert all(torch.equal(before[name], tensor) for name, tensor in eyes.state_dict().items())
    learned = {name for name, parameter in eyes.named_parameters() if parameter.requires_grad}
    assert learned == {
        f"encoders.{camera}.head.{part}" for camera in SPEC.camera_names for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"conv1.weight": None}, "has no tensor 'conv1.weight'"),
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"is \(64, 3, 3, 3\), must be \(64, 3, 7, 7\)"),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "'bn1.bias' of .* has numbers that are not finite"),
    ],
)
def test_a_trunk_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor | None], text: str, tmp_path: Path
) -> None:
    with pytest.raises(TrunkError, match=text):
        ResNetTrunk().take(trunk_file(tmp_path / "trunk.safetensors", **change))
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(TrunkError, match="is no safetensors file"):
        ResNetTrunk().take(tmp_path / "pickle.pth")
    with pytest.raises(TrunkError, match="the encoder is small"):
        Eyes(SPEC).take_trunks(tmp_path / "trunk.safetensors")
