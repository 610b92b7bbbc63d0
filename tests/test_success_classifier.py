"""Success from pictures: a teacher's episodes in the simulated scene, in real bags, through the real commands."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from softflow_exchange.write import write_episode
from softflow_learner.success.calibration import (
    UnreachableError,
    area_under_curve,
    calibration_error,
    choose_threshold,
    fit_scaling,
    reliability,
    row,
)
from softflow_learner.success.cli import main
from softflow_learner.success.data import Labelling, PicturesError, gather, load_episodes, split
from softflow_learner.success.judging import judge_bags
from softflow_learner.success.making import Report, make_classifier
from softflow_learner.success.training import TrainSettings
from softflow_node.pictures import encode_jpeg
from softflow_policy.success.file import (
    Classifier,
    encode_classifier,
    load_classifier,
)
from softflow_policy.success.model import SuccessNet, SuccessSpec
from softflow_policy.success.scaling import sigmoid
from softflow_recorder.bag import read_episode
from softflow_recorder.episode import EpisodeData
from softflow_recorder.labelling import label_bag
from softflow_recorder.labels import read_labels
from softflow_sim.tool_scene import ToolScene
from softflow_sim.tool_teacher import ToolTeacher, ToolTeacherStyle

EPISODES = 24
FIRST, EVERY = 20, 2
"""The first step of which there is a picture, and how many steps lie between two."""
LAST = 60
LEFT, TOP, SIDE = 48, 16, 72
"""[pixels] the part of the scene's picture that is looked at."""
LIFTED = 0.25
"""The task gives 0.3 when the tool is out of the case: here that is the success."""
SPEC = SuccessSpec(cameras="front", image_size=32, image_width=16, image_features=32)
SETTINGS = TrainSettings(updates=60, batch=32, rate=3e-3)
LABELLING = Labelling(success_reward=LIFTED, hold=3)


def play(scene: ToolScene, seed: int) -> EpisodeData:
    """A teacher reaches for the tool; every second teacher misses. Pictures and states of every second step."""
    style = ToolTeacherStyle.draw(np.random.default_rng(seed), grasp_error=0.0)
    if seed % 2:
        style = ToolTeacherStyle(**{**vars(style), "grasp_error": np.array([0.0, 0.0, 0.03])})
    teacher, task = ToolTeacher(seed, style), scene.task
    scene.reset(seed)
    progress, state = task.begin(), task.observe(scene.hand(), scene.objects())
    states, pictures, rewards, due = [], [], [], 0.0
    for step in range(LAST):
        if step >= FIRST and (step - FIRST) % EVERY == 0:
            states.append(state)
            pictures.append(encode_jpeg(scene.render(160, 120)[TOP : TOP + SIDE, LEFT : LEFT + SIDE], 90))
            if len(states) > 1:
                rewards.append(due)
            due = 0.0
        teacher.observe(state)
        scene.advance(teacher())
        after = task.observe(scene.hand(), scene.objects())
        due += task.advance(progress, state, after).reward
        state = after
    n = len(rewards)
    return EpisodeData(
        episode_id=f"{seed:032x}", index=seed, task=task.id, layout_hash=task.layout.hash, mode="demo",
        source="teacher", seed=seed, states=np.stack(states), actions=np.zeros((n, task.action_dim), np.float32),
        rewards=np.array(rewards, np.float32), policy_versions=np.zeros(n, np.uint64), terminated=False,
        truncated=True, cause="time_limit", success=False, metrics={"steps": float(n)},
        interventions=np.zeros(n, np.bool_), images={"front": tuple(pictures)},
    )  # fmt: skip


def write(path: Path, episode: EpisodeData) -> Path:
    times = 1_000_000_000 + np.arange(episode.steps + 1) * 100_000_000
    write_episode(path, episode, times, "/hand0", {"steps": str(episode.steps)})
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    scene = ToolScene()
    for seed in range(EPISODES):
        write(folder / f"episode-{seed:02d}", play(scene, seed))
    scene.close()
    return folder


@pytest.fixture(scope="module")
def made(bags: Path) -> tuple[Classifier, Report]:
    episodes, refused = load_episodes([bags], ["front"], SPEC.image_size, LIFTED)
    assert not refused and sum(e.success is not None for e in episodes) >= EPISODES / 2 - 2
    return make_classifier(SPEC, episodes, LABELLING, SETTINGS, precision=0.99, held_out=0.5)


@pytest.fixture(scope="module")
def file(made: tuple[Classifier, Report], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "success.safetensors"
    path.write_bytes(encode_classifier(made[0]))
    return path


def test_it_sees_success_in_episodes_that_it_has_not_seen(made: tuple[Classifier, Report]) -> None:
    classifier, report = made
    test = report.parts[2]
    assert report.auc >= 0.97
    for seed in range(3):
        torch.manual_seed(seed)
        untrained = SuccessNet(SPEC).judge(test.thumbnails)
        assert area_under_curve(untrained, test.truth) < 0.9
    assert report.calibration_error < 0.08
    assert report.chosen.threshold == classifier.info.threshold
    assert report.chosen.precision >= 0.7 and report.chosen.recall >= 0.7


def test_the_same_bags_and_seed_give_the_same_classifier(bags: Path) -> None:
    episodes, _ = load_episodes([bags], ["front"], SPEC.image_size, LIFTED)
    settings = TrainSettings(updates=2, batch=8, seed=3)
    files = [
        encode_classifier(
            make_classifier(SPEC, episodes, LABELLING, settings, precision=0.01, held_out=0.5)[0]
        )
        for _ in range(2)
    ]
    other = dataclasses.replace(settings, seed=4)
    files.append(
        encode_classifier(make_classifier(SPEC, episodes, LABELLING, other, precision=0.01, held_out=0.5)[0])
    )
    assert files[0] == files[1] != files[2]


def test_an_episode_is_in_one_part_only(bags: Path) -> None:
    episodes, _ = load_episodes([bags], ["front"], 16, LIFTED)
    parts = split(episodes, 0.4, seed=1)
    ids = [[e.data.episode_id for e in part] for part in parts]
    assert sorted(i for part in ids for i in part) == sorted(e.data.episode_id for e in episodes)
    for part in parts:
        kinds = [e.success is not None for e in part]
        assert abs(sum(kinds) - len(kinds) / 2) <= 1
    with pytest.raises(PicturesError, match="1 successful episodes, too few"):
        split([e for e in episodes if e.success is None] + parts[1][:1], 0.4, seed=1)


def test_probabilities_are_brought_back_to_what_is_found() -> None:
    """Logits that are four times too large and shifted, as of an overtrained network on balanced batches."""
    rng = np.random.default_rng(0)
    honest = rng.normal(-1.0, 1.5, 4000)
    truth = rng.random(4000) < sigmoid(honest)
    distorted = 4.0 * honest + 3.0
    scaling = fit_scaling(distorted, truth)
    assert scaling.scale == pytest.approx(0.25, rel=0.1) and scaling.bias == pytest.approx(-0.75, abs=0.15)
    before, after = (
        calibration_error(reliability(p, truth)) for p in (sigmoid(distorted), scaling(distorted))
    )
    assert after < 0.02 < 0.1 < before
    # What a line separates must not become certain: five pictures cannot show that much.
    few = fit_scaling(np.array([-9.0, -8.0, -7.0, 6.0, 9.0]), np.array([False, False, False, True, True]))
    assert few.scale > 0.0 and float(few(np.array([9.0]))[0]) < 0.9


def test_the_threshold_has_the_precision_that_is_wanted() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9])
    truth = np.array([False, False, True, False, True, True, True])
    # With 0.5 wanted, too, there is nothing more to be found below 0.3.
    assert choose_threshold(p, truth, 0.5) == choose_threshold(p, truth, 0.8)
    strict, loose = choose_threshold(p, truth, 0.99), choose_threshold(p, truth, 0.8)
    assert 0.5 < strict < 0.6 and row(p, truth, strict, 7).recall == 0.75
    assert 0.2 < loose < 0.3 and row(p, truth, loose, 7).precision == 0.8
    assert row(p, truth, loose, 2).false_alarms == 0.5
    twice, both = np.tile(p, 2), np.concatenate([truth, ~truth])  # each picture as a success and as none
    with pytest.raises(UnreachableError, match=r"precision: 0.99 is wanted, the best .* is 0.500"):
        choose_threshold(twice, both, 0.99)


def test_a_precision_out_of_reach_is_refused_and_nothing_written(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A camera that hangs: every picture of every episode is the same."""
    episode = read_episode(bags / "episode-00")
    for seed in range(6):
        images = {"front": episode.images["front"][:1] * (episode.steps + 1)}
        write(
            tmp_path / "bags" / f"{seed}", dataclasses.replace(episode, episode_id=f"{seed}", images=images)
        )
    out = tmp_path / "out.safetensors"
    assert main(train_arguments(tmp_path / "bags", out)) == 2
    assert "precision: 0.99 is wanted, the best that a threshold gives" in capsys.readouterr().err
    assert not out.exists() and not list(tmp_path.glob("*.png"))


def train_arguments(bags: Path, out: Path, camera: str = "front") -> list[str]:
    return [
        *("train", "--bags", str(bags), "--cameras", camera, "--out", str(out), "--success-reward", str(LIFTED)),
        *("--image-size", "16", "--updates", "2", "--held-out", "0.5"),
    ]  # fmt: skip


def test_the_command_writes_the_classifier_and_its_picture(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert main([*train_arguments(bags, out), "--precision", "0.05"]) == 0
    said = capsys.readouterr().out
    assert "the test's precision is below" not in said
    assert f"{EPISODES} episodes" in said and "said by: import" in said and "chosen" in said
    info = load_classifier(out).info
    assert (info.heights, info.widths, info.success_reward) == ((SIDE,), (SIDE,), LIFTED)
    picture = cv2.imread(str(tmp_path / "out_calibration.png"))
    assert picture is not None and picture.std() > 0
    assert main(train_arguments(bags, out, "wrist")) == 2
    assert "has no camera 'wrist', its cameras: front" in capsys.readouterr().err


def test_its_rewards_are_written_with_their_source_and_read_back(
    file: Path, bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier, folder = load_classifier(file), tmp_path / "bags"
    made_of = [read_episode(bags / f"episode-{seed:02d}") for seed in (0, 2, 1, 4)]
    unlabelled = [dataclasses.replace(e, rewards=np.zeros_like(e.rewards)) for e in made_of]
    false = made_of[2].rewards.copy()
    false[3] = 1.0
    unlabelled[2] = dataclasses.replace(made_of[2], rewards=false)
    paths = [write(folder / f"{i}", episode) for i, episode in enumerate(unlabelled)]
    label_bag(paths[3], 0, [0.1], "human", 1.0)
    command = ["judge", "--classifier", str(file), "--bags", str(folder)]
    assert main([*command, "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert not any(label.source == "classifier" for path in paths for label in read_labels(path))
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (128, 4 * 128, 3)
    capsys.readouterr()
    assert main([*command, "--write"]) == 0
    said = capsys.readouterr().out
    assert "4 episodes: 0 agree, 3 false alarms, 1 missed; 3 rewards written" in said
    for path, known in zip(paths[:2], made_of[:2], strict=True):
        [label] = read_labels(path)
        again = read_episode(path)
        assert (label.source, label.values) == ("classifier", (LIFTED,))
        assert again.rewards[label.start] == LIFTED == again.rewards.sum()
        assert again.reward_sources[label.start] == "classifier"
        assert set(again.reward_sources) == {"classifier", "import"}
        assert abs(label.start - int(known.rewards.argmax())) <= 3
        [verdict] = judge_bags(classifier, [path.parent])[0][int(path.name) : int(path.name) + 1]
        assert label.confidence == pytest.approx(float(verdict.probabilities[label.start]))
        assert label.confidence >= classifier.info.threshold
    [taken_back] = read_labels(paths[2])
    assert (taken_back.start, taken_back.values, taken_back.source) == (3, (0.0,), "classifier")
    assert read_episode(paths[2]).rewards[3] == 0.0
    assert [label.source for label in read_labels(paths[3])] == ["human"], "a human's rewards stay"
    assert main([*command, "--write"]) == 0 and "; 0 rewards written" in capsys.readouterr().out
    # It does not learn from itself: to a training the bags are as they were.
    episodes, _ = load_episodes([folder], ["front"], 16, LIFTED)
    assert [e.success for e in episodes] == [None, None, 3, None]


def test_a_human_has_the_last_word_on_the_end_of_an_episode(bags: Path, tmp_path: Path) -> None:
    episode = read_episode(bags / "episode-01")
    path = write(tmp_path / "bag", dataclasses.replace(episode, success=True))
    assert read_episode(path).images == episode.images

    def known() -> tuple[int | None, str]:
        [found], _ = load_episodes([tmp_path], ["front"], 16, 1.0)
        return found.success, found.source

    assert known() == (episode.steps - 1, "episode")
    label_bag(path, episode.steps - 1, [0.0], "human", 1.0)
    assert known() == (None, "human")
    label_bag(path, episode.steps - 1, [1.0], "human", 1.0)
    assert known() == (episode.steps - 1, "human")
    shutil.copytree(
        path, tmp_path / "copy"
    )  # in two parts of the data it would make a test of what was learnt
    found, [refused] = load_episodes([tmp_path], ["front"], 16, 1.0)
    assert len(found) == 1 and f"episode {episode.episode_id!r} was in a bag before it" in refused


def test_which_pictures_show_a_success(bags: Path) -> None:
    episodes, _ = load_episodes([bags], ["front"], 16, LIFTED)
    episode = next(e for e in episodes if e.success is not None)
    first = int(read_episode(episode.path).rewards.argmax()) + 1
    which, truth = episode.known(Labelling(LIFTED, hold=2, margin=3))
    assert which.tolist() == [*range(first - 3), first, first + 1]
    assert which[truth].tolist() == [first, first + 1]
    with pytest.raises(PicturesError, match="margin is -1, must be at least 0"):
        Labelling(margin=-1)
    assert gather([episode], LABELLING).successes == LABELLING.hold


def test_a_damaged_classifier_judges_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(file.read_bytes()[:1000])
    assert main(["judge", "--classifier", str(path), "--bags", str(tmp_path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_pictures_of_another_camera_size_or_task_are_refused_by_name(
    file: Path, bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episode = read_episode(bags / "episode-00")
    images = episode.images["front"]
    larger = tuple(encode_jpeg(np.zeros((48, 64, 3), np.uint8), 90) for _ in images)
    for name, changes, text in (
        ("camera", {"images": {"wrist": images}}, "has no camera 'front', its cameras: wrist"),
        ("size", {"images": {"front": larger}}, f"pictures of 'front' are 64x48, must be {SIDE}x{SIDE}"),
        (
            "mixed",
            {"images": {"front": images[:-1] + larger[:1]}},
            f"of 'front' is 64x48, those before {SIDE}x",
        ),
        (
            "bytes",
            {"images": {"front": (b"no picture", *images[1:])}},
            "picture 0 of 'front': 10 bytes are not",
        ),
        ("layout", {"layout_hash": "0" * 64}, "layout_hash is '000"),
    ):
        folder = tmp_path / name
        write(folder / "bag", dataclasses.replace(episode, **changes))
        assert main(["judge", "--classifier", str(file), "--bags", str(folder), "--write"]) == 2
        said = capsys.readouterr().err
        assert text in said and "hold no episode that can be judged" in said
        assert read_labels(folder / "bag") == []
    shutil.copytree(bags / "episode-02", tmp_path / "size" / "good")
    assert main(["judge", "--classifier", str(file), "--bags", str(tmp_path / "size")]) == 1
    said = capsys.readouterr()
    assert said.err.count("refused:") == 1 and "1 episodes: 1 agree" in said.out
