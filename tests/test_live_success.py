"""A classifier rewards while the robot runs: its node alone, and whole episodes that follow its verdicts."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import domain_coordinator
import numpy as np
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_permissions import allowed, used
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import EpisodeEvent, HandHealth, Observation, PolicyManifest, SuccessVerdict

from softflow_bringup.episodes import BagWatch, run_graph
from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_learner.success.calibration import fit_scaling
from softflow_learner.success.data import Pictures, PicturesError, load_episodes
from softflow_learner.success.judging import judge_bags
from softflow_learner.success.training import TrainSettings, train
from softflow_node.node import latched, reliable, stream
from softflow_node.parameters import ParameterError
from softflow_node.pictures import decode, encode_jpeg, thumbnail
from softflow_perception.camera.messages import to_image
from softflow_policy.success.file import Classifier, ClassifierInfo, load_classifier, save_classifier
from softflow_policy.success.model import SuccessNet, SuccessSpec
from softflow_policy.success.node import SuccessNode
from softflow_recorder.bag import read_episode, read_messages
from softflow_sim.cameras import SimulatedCamera
from softflow_sim.tool_scene import ToolScene
from softflow_sim.tool_teacher import ToolTeacher, ToolTeacherStyle
from softflow_tasks.episode import CLASSIFIER, Episode
from softflow_tasks.node import SILENCE, EpisodeNode
from softflow_tasks.tool_cut import REST_HEIGHT, ToolCut

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TASK = ToolCut()
SPEC = SuccessSpec(cameras="front", image_size=32, image_width=16, image_features=32)
TOPIC = "/hand0/camera/front/image/compressed"
EPISODES = 2
SHOWN, LAST, EVERY = 10, 64, 3
"""Episodes that are learnt from, their steps, and the steps from picture to picture."""
REWARD = 2.5
TIMEOUT = 60.0


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the tool out of its case, from pictures as the simulated camera takes them."""
    scene, eye = ToolScene(), SimulatedCamera(TASK.id, "front")
    small, truth = [], []
    for seed in range(SHOWN):
        teacher = ToolTeacher(seed, ToolTeacherStyle.draw(np.random.default_rng(seed), grasp_error=0.0))
        scene.reset(seed)
        for step in range(LAST):
            state = TASK.observe(scene.hand(), scene.objects())
            if step % EVERY == 0:
                picture = eye.render(scene.hand().position, scene.objects())
                small.append(thumbnail(picture, SPEC.image_size))
                truth.append(TASK.block(state, "tool_position")[2] > REST_HEIGHT + TASK.LIFTED)
            teacher.observe(state)
            scene.advance(teacher())
    scene.close()
    eye.close()
    known = np.array(truth)
    pictures = Pictures({"front": np.stack(small)}, known, SHOWN)
    net = train(SPEC, pictures, TrainSettings(updates=80, batch=32, rate=3e-3))
    scaling = fit_scaling(net.judge(pictures.thumbnails), known)
    info = ClassifierInfo(
        layout_hash=TASK.layout.hash,
        heights=(eye.optics.height,),
        widths=(eye.optics.width,),
        success_reward=REWARD,
        scale=scaling.scale,
        bias=scaling.bias,
        threshold=0.7,
    )
    path = tmp_path_factory.mktemp("classifier") / "lifted.safetensors"
    save_classifier(path, Classifier(net, info))
    return path


@pytest.fixture(scope="module")
def bags(file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Demonstrations in lock step, rewarded by the classifier."""
    run = tmp_path_factory.mktemp("live")
    arguments = {
        "task": TASK.id,
        "speed": "max",
        "run": run,
        "episodes": EPISODES,
        "pictures": "front",
        "classifier": file,
    }
    differs = []

    with domain() as context:
        observer = Node("observer", context=context)

        def keep_on() -> bool:
            if "success" in observer.get_node_names():
                differs.append(used(observer, "/hand0/success") ^ allowed("/hand0/success"))
            return True

        run_graph("record_demos", arguments, run / "log", keep_on, time.sleep)
    assert set() in differs, differs  # what its enclave allows is what the node does
    assert len(list((run / "bags").iterdir())) == EPISODES  # none was discarded
    return [summary.path for summary in BagWatch(run / "bags").summaries()]


@contextmanager
def domain() -> Iterator[Context]:
    """A ROS domain for this process and its children."""
    with domain_coordinator.domain_id() as number, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(number))
        context = Context()
        rclpy.init(context=context)
        yield context
        rclpy.shutdown(context=context)


def messages(bag: Path, name: str) -> list[Any]:
    """In the order of the bag, a repeated one each time."""
    return [m for topic, _, m in read_messages(bag) if topic == f"/hand0/{name}"]


def test_rewards_follow_from_the_bags_own_pictures_and_the_classifiers_file(
    file: Path, bags: list[Path]
) -> None:
    assert len(bags) == EPISODES
    classifier, succeeded = load_classifier(file), 0
    for bag in bags:
        episode = read_episode(bag)
        small = np.stack([thumbnail(decode(p), SPEC.image_size) for p in episode.images["front"]])
        expected = classifier.probabilities({"front": small})
        verdicts = messages(bag, "success_verdict")
        assert {v.step for v in verdicts} >= set(range(episode.steps + 1))
        for v in verdicts:
            assert (v.threshold, v.success_reward) == (0.7, REWARD)
            if v.step <= episode.steps:
                assert v.probability == pytest.approx(expected[v.step], abs=1e-6)
        above = np.flatnonzero(expected[1:] >= classifier.info.threshold)
        assert set(episode.reward_sources) == {"classifier"}
        assert episode.success == (len(above) > 0) == (episode.cause == "success")
        if episode.success:
            succeeded += 1
            assert episode.steps == above[0] + 1 > 1 and episode.terminated
            assert episode.rewards.tolist() == [0.0] * int(above[0]) + [REWARD]
            assert episode.metrics["steps"] == episode.steps  # the task counts on
        else:
            assert not episode.rewards.any()
        labels = messages(bag, "reward_label")
        assert [m.start_step for m in labels] == list(range(episode.steps))
        said = [expected[m.start_step + 1] for m in labels]
        sure = [p if p >= classifier.info.threshold else 1.0 - p for p in said]
        assert [m.confidence for m in labels] == pytest.approx(sure, abs=1e-6)
    assert succeeded > 0


def test_a_classifier_does_not_learn_from_what_it_rewarded_and_agrees_with_itself(
    file: Path, bags: list[Path]
) -> None:
    with pytest.raises(PicturesError, match="rewards are a classifier's, must be another's to learn from"):
        load_episodes([bags[0].parent], ["front"], SPEC.image_size, REWARD)
    verdicts, refused = judge_bags(load_classifier(file), [bags[0].parent])
    assert not refused
    for verdict in verdicts:
        episode = read_episode(verdict.episode.path)
        assert verdict.found == (episode.steps - 1 if episode.success else None)
        assert not verdict.compared and verdict.line().endswith("its rewards: a classifier's")


def untrained(path: Path, spec: SuccessSpec = SPEC, **values: Any) -> Path:
    """A classifier for pictures of 64x48, with weights of which every one matters."""
    torch.manual_seed(0)
    count = len(spec.camera_names)
    info = {
        "layout_hash": TASK.layout.hash,
        "heights": (48,) * count,
        "widths": (64,) * count,
        "threshold": 0.5,
    }
    save_classifier(path, Classifier(SuccessNet(spec).eval(), ClassifierInfo(**{**info, **values})))
    return path


def test_pictures_of_another_size_are_refused_and_the_episode_is_given_up(tmp_path: Path) -> None:
    file = untrained(tmp_path / "small.safetensors")
    arguments = {
        "task": TASK.id,
        "speed": "max",
        "pictures": "front",
        "classifier": file,
        "run": tmp_path / "run",
    }
    graph = load_graph("record_demos", arguments)
    manager = graph.node("episode_manager")
    impatient = dataclasses.replace(manager, parameters={**manager.parameters, "stall_timeout": 2.0})
    graph = dataclasses.replace(graph, nodes=tuple(impatient if n is manager else n for n in graph.nodes))
    events: list[EpisodeEvent] = []
    log = tmp_path / "log" / "episode_manager.log"
    why = "success_verdict of step 1 has not come for 2.0 s"
    said: dict[str, DiagnosticStatus] = {}

    def on_diagnostics(message: DiagnosticArray) -> None:
        said.update({status.name: status for status in message.status})

    with domain() as context:
        watcher = Node("watcher", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(watcher)
        watcher.create_subscription(EpisodeEvent, "/hand0/episode_event", events.append, latched(100))
        watcher.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, reliable(100))
        with Supervisor(graph, log_directory=tmp_path / "log"):
            end = time.monotonic() + TIMEOUT

            def done() -> bool:
                fault = said.get("/hand0/success", DiagnosticStatus()).message
                # A machine that starts slowly may stall before there is anything to judge.
                given_up = log.is_file() and why in log.read_text()
                return (
                    "must be 64x48" in fault
                    and given_up
                    and any(e.kind == EpisodeEvent.DISCARDED for e in events)
                )

            while not done():
                assert time.monotonic() < end, (said.get("/hand0/success"), events)
                executor.spin_once(timeout_sec=0.1)
    status = said["/hand0/success"]
    assert status.level == DiagnosticStatus.ERROR
    assert "cannot be judged: picture of camera 'front' is 640x480, must be 64x48" in status.message
    assert int({v.key: v.value for v in status.values}["refused_observation"]) > 0
    ends = [e for e in events if e.kind != EpisodeEvent.START]
    assert {(e.kind, e.last_step) for e in ends} == {(EpisodeEvent.DISCARDED, 0)}, ends
    assert "stalled" in {e.cause for e in ends}
    assert "see what the node success says" in log.read_text()


class Robot:
    """What the success node hears and says, in one process with it."""

    def __init__(self) -> None:
        self.success = SuccessNode()
        self.node = node = Node("robot")
        self.executor = SingleThreadedExecutor()
        for each in (self.success, node):
            self.executor.add_node(each)
        self.images = node.create_publisher(CompressedImage, TOPIC, stream())
        self.observations = node.create_publisher(Observation, "/hand0/observation", stream())
        self.verdicts: list[SuccessVerdict] = []
        node.create_subscription(SuccessVerdict, "/hand0/success_verdict", self._on_verdict, stream())
        rng = np.random.default_rng(0)
        self.pictures = [
            encode_jpeg(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8), 90) for _ in range(6)
        ]
        self.signs = 0
        self.until(lambda: self.signs)

    def _on_verdict(self, message: SuccessVerdict) -> None:
        if message.episode_id:
            self.verdicts.append(message)
        else:
            self.signs += 1

    def show(self, step: int) -> None:
        self.images.publish(to_image("front", self.pictures[step], 1000 + step))

    def observe(self, step: int, episode: str = "e", **values: Any) -> None:
        about = {"layout_hash": TASK.layout.hash, "images": [f"{TOPIC}@{1000 + step}"], **values}
        self.observations.publish(Observation(episode_id=episode, step=step, **about))

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, (self.said, self.success.counters)
            self.success.poll()
            self.executor.spin_once(timeout_sec=0.05)

    @property
    def said(self) -> list[tuple[str, int]]:
        return [(v.episode_id, v.step) for v in self.verdicts]


@contextmanager
def parameters(**values: object) -> Iterator[None]:
    """The default context of a node with these parameters, in a domain of its own."""
    given = itertools.chain.from_iterable(("-p", f"{name}:={value}") for name, value in values.items())
    with domain_coordinator.domain_id() as number, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(number))
        rclpy.init(args=["--ros-args", "-r", "__ns:=/hand0", *given])
        try:
            yield
        finally:
            rclpy.shutdown()


def test_each_observation_is_judged_once_by_its_own_pictures_and_in_order(tmp_path: Path) -> None:
    file = untrained(tmp_path / "any.safetensors")
    with parameters(task=TASK.id, classifier=file, image_topics="camera/front/image/compressed"):
        robot = Robot()
        assert robot.images.get_subscription_count() and robot.observations.get_subscription_count()
        for step in (0, 2, 3):
            robot.show(step)
        for step in (0, 1, 2, 3):  # the picture of 1 is late: 2 and 3 wait, and are not judged by another one
            robot.observe(step)
        robot.until(lambda: robot.success.counters["waits_for_pictures"] >= 3)
        assert robot.said == [("e", 0)]
        robot.show(1)
        robot.until(lambda: len(robot.verdicts) == 4)
        assert robot.said == [("e", step) for step in range(4)]
        robot.observe(3)  # a world that waits
        robot.until(lambda: len(robot.verdicts) == 5)
        assert robot.verdicts[4] == robot.verdicts[3]
        robot.observe(4)  # its picture never comes: another episode begins
        robot.observe(5, "f")
        robot.show(5)
        robot.until(lambda: robot.said[5:] == [("f", 5)])
        assert robot.success.counters["observations_given_up"] == 1
        classifier = load_classifier(file)
        small = np.stack([thumbnail(decode(p), SPEC.image_size) for p in robot.pictures])
        expected = classifier.probabilities({"front": small})
        assert len(set(expected.round(9))) == len(expected)
        for v in robot.verdicts:
            assert v.probability == pytest.approx(expected[v.step], abs=1e-6)
        for values, text in (
            ({"layout_hash": "0" * 64}, "layout_hash is '000"),
            ({"images": ["/hand0/camera/wrist/image/compressed@1005"]}, "names no picture of camera 'front'"),
        ):
            before = robot.success.counters["refused_observation"]
            robot.observe(6, "f", **values)
            robot.until(lambda before=before: robot.success.counters["refused_observation"] > before)
            assert text in robot.success.fault() and "step 6 cannot be judged" in robot.success.fault()
        robot.observe(0, "g", images=[f"{TOPIC}@1005"])
        robot.until(lambda: robot.said[-1] == ("g", 0))
        assert robot.success.fault() == ""
        robot.executor.shutdown()
        robot.success.destroy_node()
        robot.node.destroy_node()


@pytest.mark.parametrize(
    ("made", "values", "text"),
    [
        ({}, {"classifier": "''"}, "parameter 'classifier' is '', must be a file made by"),
        ({}, {"classifier": "nowhere.safetensors"}, "No such file or directory: 'nowhere.safetensors'"),
        ({"layout_hash": "0" * 64}, {}, "layout_hash is '000.*, task ToolCut-v0 has"),
        ({}, {"image_topics": "camera/wrist/image/compressed"}, "'image_topics' is 'camera/w.*'front' is missing"),
        ({}, {"image_topics": "''"}, "parameter 'image_topics' is '', must have one of each camera"),
        ({}, {"image_topics": "a,a"}, "success: parameter 'image_topics' is 'a,a', names a topic twice"),
        ({}, {"image_topics": "a-b"}, "success: parameter 'image_topics' is 'a-b': .*must not contain characters"),
        (None, {}, "parameter 'classifier' is .*header length is .*truncated"),
    ],
)  # fmt: skip
def test_what_cannot_judge_is_refused_at_the_start(
    made: dict[str, Any] | None, values: dict[str, str], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    if made is None:
        path.write_bytes(b"not a classifier")
    else:
        untrained(path, **made)
    given = {"task": TASK.id, "classifier": path, "image_topics": "camera/front/image/compressed", **values}
    with parameters(**given), pytest.raises(ParameterError, match=text):
        SuccessNode()


def test_bad_verdicts_are_refused_and_a_missing_one_ends_the_episode() -> None:
    with parameters(task=TASK.id, reward=CLASSIFIER, policy=True):
        manager = EpisodeNode()
        assert manager.fault() == ""
        manager._started -= 2 * SILENCE
        assert "hand_health has not come for 5 s" in manager.fault()
        manager._on_health(HandHealth(mode=HandHealth.MODE_ACTIVE))
        for state in (PolicyManifest.CANDIDATE, PolicyManifest.ACTIVE):
            assert "active_policy has not come for 5 s" in manager.fault()
            manager._on_policy(PolicyManifest(state=state))
        assert "the success node has said nothing for 5 s" in manager.fault()
        manager._on_verdict(SuccessVerdict())
        assert manager.fault() == ""
        manager.episode = Episode(TASK, "e", 0, seed=1, reward=CLASSIFIER)

        def tell(step: int, probability: float, episode: str = "e") -> None:
            manager._on_verdict(
                SuccessVerdict(episode_id=episode, step=step, probability=probability, threshold=0.5)
            )

        tell(1, float("nan"))
        tell(2, 1.5)
        assert manager.counters["refused_verdict"] == 2 and manager.episode is not None
        tell(1, 0.9, "another")
        assert manager.counters["verdicts_of_other_episodes"] == 1
        tell(1, 0.1)
        tell(3, 0.1)
        assert manager.counters["refused_verdict"] == 3 and manager.episode is None
        manager.destroy_node()
