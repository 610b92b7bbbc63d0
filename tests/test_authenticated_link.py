"""Real processes over real Fast DDS: without the key nobody pushes experience or weights, nor takes any away."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import domain_coordinator
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from softflow_msgs.msg import ExperienceItem, PolicyManifest
from softflow_msgs.srv import GetResumePoint, PushExperience

from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_learner.journal import read_journal
from softflow_node.authentication import Guard, create_key
from softflow_node.messages import check_message, sign_message
from softflow_node.node import latched, reliable

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src" / "softflow_recorder" / "test"))

from recorder_toy import Toy
from ros_permissions import allowed, used

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TIMEOUT = 120.0
EPISODES = 2
Forge = Callable[[Any, tuple[Any, ...]], None]


class Rogue:
    """A participant in the same domain that can say anything; the keys are given to it where a test needs one."""

    def __init__(self, context: Context, guard: Guard, other: Guard) -> None:
        self.guard, self.other = guard, other
        self.node = Node("rogue", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.counters: dict[str, dict[str, int]] = {}
        self.manifests: list[PolicyManifest] = []
        self.active: list[PolicyManifest] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(10))
        self.node.create_subscription(
            PolicyManifest, "/learner/policy_manifest", self.manifests.append, latched()
        )
        self.node.create_subscription(PolicyManifest, "/hand0/active_policy", self.active.append, latched(10))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {v.key: int(v.value) for v in status.values if v.value.isdigit()}
            self.counters[status.name] = values

    def counted(self, node: str, name: str) -> int:
        return self.counters.get(node, {}).get(name, 0)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, f"never: {what}; counters: {self.counters}"
            self.executor.spin_once(timeout_sec=0.1)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, name)
        future = client.call_async(request)
        self.until(future.done, f"an answer of {name}")
        self.node.destroy_client(client)
        return future.result()


class FalseLearner:
    """Has the learner's services and acknowledges everything, each time with another forgery."""

    def __init__(self, rogue: Rogue) -> None:
        self.rogue = rogue
        self.resume_honestly = False
        self.answers = {"resume": 0, "push": 0}
        self.items: list[ExperienceItem] = []
        node = rogue.node
        self.services = [
            node.create_service(GetResumePoint, "/learner/get_resume_point", self._on_resume),
            node.create_service(PushExperience, "/learner/push_experience", self._on_push),
        ]
        self.forgeries: list[Forge] = [
            lambda answer, of: None,
            lambda answer, of: sign_message(rogue.other, answer, *of),
            # What the learner really answered, but to another call, or about another recorder.
            lambda answer, of: sign_message(rogue.guard, answer, of[0] ^ 1, *of[1:]),
            lambda answer, of: sign_message(rogue.guard, answer, of[0], "/hand1", of[2]),
            lambda answer, of: sign_message(rogue.guard, answer, of[0], of[1], "another boot"),
            self._raise_the_number,
        ]

    def _raise_the_number(self, answer: Any, of: tuple[Any, ...]) -> None:
        answer.acknowledged_seq = 0
        sign_message(self.rogue.guard, answer, *of)
        answer.acknowledged_seq = EPISODES

    def _on_resume(
        self, request: GetResumePoint.Request, response: GetResumePoint.Response
    ) -> GetResumePoint.Response:
        of = (request.nonce, request.robot, request.boot)
        if self.resume_honestly:
            response.credits = 8
            sign_message(self.rogue.guard, response, *of)
        else:
            self._forge("resume", response, of)
        return response

    def _on_push(
        self, request: PushExperience.Request, response: PushExperience.Response
    ) -> PushExperience.Response:
        self.items = list(request.items)
        self._forge("push", response, (request.nonce, self.items[0].robot, self.items[0].boot))
        return response

    def _forge(self, what: str, answer: Any, of: tuple[Any, ...]) -> None:
        answer.acknowledged_seq, answer.credits = EPISODES, 8
        self.forgeries[self.answers[what] % len(self.forgeries)](answer, of)
        self.answers[what] += 1

    def all_tried(self, what: str) -> bool:
        return self.answers[what] > len(self.forgeries)

    def leave(self) -> None:
        for service in self.services:
            self.rogue.node.destroy_service(service)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a first checkpoint, a key, and a graph of what talks to each other over the link."""
    run = tmp_path_factory.mktemp("link")
    create_key(run / "key")
    create_key(run / "other_key")
    for seed in range(3):
        Toy.make(seed, episode_id=f"demo{seed}").write(run / "demos" / f"bag{seed}")
    command = [sys.executable, "-m", "softflow_learner.cli", "imitation", "--run", str(run / "learner")]
    command += ["--demos", str(run / "demos"), "--set", "imitation_updates=2", "--set", "batch_size=8"]
    subprocess.run(command, check=True, timeout=300)
    names = ["namespace", "task", "seed", "weights", "run", "key_file", "keystore"]
    names += ["learner_run", "demos", "settings", "resume"]
    arguments = f"arguments: {{{': , '.join(names)}: }}\n"
    (run / "robot.yaml").write_text(
        arguments + "nodes: [{use: recorder, parameters: {ship: true}}, {use: policy}]\n"
    )
    (run / "learner.yaml").write_text(arguments + "nodes: [{use: learner}]\n")
    return run


@pytest.fixture(scope="module")
def rogue(run: Path) -> Iterator[Rogue]:
    """A participant beside a recorder and a policy that have the key and wait for their learner."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        context = Context()
        rclpy.init(context=context)
        guards = [Guard.open(str(run / name), "test") for name in ("key", "other_key")]
        rogue = Rogue(context, *guards)
        with start(run, "robot"):
            yield rogue
        rogue.node.destroy_node()
        rclpy.shutdown(context=context)


def start(run: Path, name: str) -> Supervisor:
    arguments = {"run": str(run / name), "learner_run": str(run / "learner"), "key_file": str(run / "key")}
    return Supervisor(
        load_graph(run / f"{name}.yaml", arguments), log=lambda *_: None, log_directory=run / "log"
    )


@pytest.fixture(scope="module")
def learner(rogue: Rogue, run: Path) -> Iterator[None]:
    with start(run, "learner"):
        yield


def spool(run: Path) -> dict[str, bytes]:
    """Items and `acknowledged` of the boot in force, and its name as `current`."""
    folder = run / "robot" / "spool"
    files = [folder / "current", *(folder / (folder / "current").read_text()).iterdir()]
    return {path.name: path.read_bytes() for path in sorted(files)}


def journal(run: Path) -> list[bytes]:
    """Payloads that the learner has stored."""
    return [stored.payload for stored in read_journal(run / "learner" / "experience")]


def record_episodes(rogue: Rogue, run: Path) -> None:
    publishers: dict[str, Any] = {}
    toys = [Toy.make(10 + i, episode_id=f"{i:08x}", mode="train") for i in range(EPISODES)]
    for topic, message in toys[0].messages():
        if topic not in publishers:
            qos = latched(100) if topic == "episode_event" else reliable(1000)
            publishers[topic] = rogue.node.create_publisher(type(message), f"/hand0/{topic}", qos)
    rogue.until(lambda: all(p.get_subscription_count() for p in publishers.values()), "a recorder")
    for toy in toys:
        for topic, message in toy.messages():
            publishers[topic].publish(message)
    rogue.until(lambda: len([n for n in spool(run) if n.endswith(".item")]) == EPISODES, "items in the spool")


def test_forged_acknowledgements_delete_nothing_and_the_learner_gets_everything(
    rogue: Rogue, run: Path, request: pytest.FixtureRequest
) -> None:
    false_learner = FalseLearner(rogue)
    record_episodes(rogue, run)
    kept = spool(run)
    rogue.until(lambda: false_learner.all_tried("resume"), "all forged resume points")
    assert spool(run) == kept
    false_learner.resume_honestly = True
    rogue.until(lambda: false_learner.all_tried("push"), "all forged acknowledgements")
    assert spool(run) == kept
    rogue.until(
        lambda: rogue.counted("/hand0/recorder", "refused_forged_answer") >= 2 * len(false_learner.forgeries),
        "a count of forged answers",
    )
    false_learner.leave()
    request.getfixturevalue("learner")
    rogue.until(lambda: set(spool(run)) == {"current", "acknowledged"}, "an empty spool")
    assert spool(run)["acknowledged"] == str(EPISODES).encode()
    items = [kept[name] for name in sorted(kept) if name.endswith(".item")]
    assert journal(run) == items


def next_item(rogue: Rogue, run: Path, **changes: Any) -> ExperienceItem:
    """What the recorder would send next, in the right form and number."""
    payload = journal(run)[0]
    boot = spool(run)["current"].decode()
    item = ExperienceItem(robot="/hand0", boot=boot, seq=EPISODES + 1, payload=array("B", payload))
    item.crc32 = zlib.crc32(payload)
    for name, value in changes.items():
        setattr(item, name, value)
    return item


def test_the_learner_stores_nothing_from_somebody_without_the_key(
    rogue: Rogue, run: Path, learner: None
) -> None:
    stored = journal(run)
    unsigned, foreign, changed = (next_item(rogue, run) for _ in range(3))
    sign_message(rogue.other, foreign)
    sign_message(rogue.guard, changed)
    changed.boot = "0" * 32
    changed.seq = 1
    for item in (unsigned, foreign, changed):
        answer = rogue.call(
            PushExperience, "/learner/push_experience", PushExperience.Request(items=[item], nonce=1)
        )
        assert "mac of softflow_msgs/msg/ExperienceItem" in answer.errors[0]
        assert not answer.mac and answer.acknowledged_seq == 0
    assert journal(run) == stored
    rogue.until(lambda: rogue.counted("/learner", "refused_forged_item") == 3, "a count of forged items")


def test_a_recorded_push_is_harmless(rogue: Rogue, run: Path, learner: None) -> None:
    stored = journal(run)
    again = next_item(rogue, run, seq=1)
    sign_message(rogue.guard, again)
    request = PushExperience.Request(items=[again], nonce=5)
    answer = rogue.call(PushExperience, "/learner/push_experience", request)
    check_message(rogue.guard, answer, 5, again.robot, again.boot)
    assert answer.acknowledged_seq == EPISODES
    assert journal(run) == stored


def test_no_signed_answer_about_two_recorders(rogue: Rogue, run: Path, learner: None) -> None:
    """Its number would be the one's and its mac the other's: recorded items would become an acknowledgement."""
    own, foreign = next_item(rogue, run, seq=1), next_item(rogue, run, robot="/hand1", seq=1)
    for item in (own, foreign):
        sign_message(rogue.guard, item)
    request = PushExperience.Request(items=[own, foreign], nonce=6)
    answer = rogue.call(PushExperience, "/learner/push_experience", request)
    assert "items of 2 recorders in one call" in answer.errors[0] and not answer.mac


def test_the_resume_point_is_told_only_to_who_has_the_key(rogue: Rogue, run: Path, learner: None) -> None:
    boot = spool(run)["current"].decode()
    question = GetResumePoint.Request(robot="/hand0", boot=boot, nonce=7)
    for forge in (lambda: None, lambda: sign_message(rogue.other, question)):
        forge()
        answer = rogue.call(GetResumePoint, "/learner/get_resume_point", question)
        assert answer.acknowledged_seq == 0 and not answer.mac
    rogue.until(lambda: rogue.counted("/learner", "refused_forged_resume_point") == 2, "a count")
    sign_message(rogue.guard, question)
    answer = rogue.call(GetResumePoint, "/learner/get_resume_point", question)
    check_message(rogue.guard, answer, 7, "/hand0", boot)
    assert answer.acknowledged_seq == EPISODES


def test_a_forged_manifest_moves_no_weights(rogue: Rogue, run: Path, learner: None) -> None:
    rogue.until(lambda: rogue.active and rogue.manifests, "weights in force")
    true, in_force = rogue.manifests[-1], rogue.active[-1]
    assert (in_force.version, in_force.sha256) in {(m.version, m.sha256) for m in rogue.manifests}

    def copy(**changes: Any) -> PolicyManifest:
        fields = {name: getattr(true, name) for name in true.get_fields_and_field_types()}
        return PolicyManifest(**{**fields, **changes})

    unsigned, changed, foreign = copy(version=10**6, mac=array("B")), copy(version=10**6), copy(version=10**6)
    sign_message(rogue.other, foreign)
    publisher = rogue.node.create_publisher(PolicyManifest, "/learner/policy_manifest", latched(10))
    rogue.until(lambda: publisher.get_subscription_count() >= 2, "the policy listening")

    def refused() -> int:
        return rogue.counted("/hand0/policy", "refused_forged_manifest")

    for manifest in (unsigned, changed, foreign):
        # One after the other: the topic keeps the newest only.
        before = refused()
        publisher.publish(manifest)
        rogue.until(lambda: refused() > before, "a count of forged manifests")  # noqa: B023
    assert rogue.active[-1].version == in_force.version
    assert rogue.counted("/hand0/policy", "policy_version") == in_force.version


def test_each_node_says_once_that_its_link_is_authenticated(run: Path, rogue: Rogue, learner: None) -> None:
    key = rogue.guard.key
    assert key is not None
    for name in ("recorder", "policy"):
        log = (run / "log" / f"{name}.log").read_text()
        assert log.count(f"the link is authenticated under key {key.id}") == 1
        assert key.secret.hex() not in log


@pytest.mark.parametrize("name", ["/hand0/recorder", "/hand0/policy", "/learner"])
def test_the_policy_of_an_enclave_allows_what_its_node_does_and_no_more(
    rogue: Rogue, learner: None, name: str
) -> None:
    rogue.until(lambda: used(rogue.node, name) == allowed(name), f"{allowed(name) ^ used(rogue.node, name)}")
