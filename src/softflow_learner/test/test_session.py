"""A run directory: settings, versions, status, and going on after a restart."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from softflow_learner.session import Session, parse_settings
from softflow_node.parameters import ParameterError
from softflow_policy.weights import decode_weights

sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))

from recorder_toy import TASK, Toy


def session(run: Path, **settings: object) -> Session:
    return Session(run, TASK, seed=3, settings=settings)


def test_settings_are_yaml_values() -> None:
    pairs = ["gamma=0.9", "batch_size=8", " name = text", "flag=true", "empty=", "sum=a=b"]
    wanted = {"gamma": 0.9, "batch_size": 8, "name": "text", "flag": True, "empty": None, "sum": "a=b"}
    assert parse_settings(pairs) == wanted


@pytest.mark.parametrize("pair", ["gamma", "=0.9", ""])
def test_a_setting_of_another_form_is_named(pair: str) -> None:
    with pytest.raises(ValueError, match=f"setting '{pair}': must have the form name=value"):
        parse_settings([pair])


@pytest.mark.parametrize(("name", "value"), [("gama", 0.9), ("gamma", 2.0), ("batch_size", "many")])
def test_a_bad_setting_is_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"settings: parameter '{name}'"):
        session(tmp_path, **{name: value})


def test_published_weights_are_numbered_hashed_and_readable(tmp_path: Path) -> None:
    made = session(tmp_path)
    made.stage = "imitation"
    first, second = made.publish(), made.publish()
    assert [(o.info.version, o.info.parent) for o in (first, second)] == [(1, 0), (2, 1)]
    data = (tmp_path / "weights" / "000002.safetensors").read_bytes()
    policy, info = decode_weights(data, second.sha256)
    assert info == second.info and info.layout_hash == TASK.layout.hash and info.best_of == 1
    assert policy.spec == made.agent.spec


def test_a_restart_goes_on_with_agent_stage_settings_and_version(tmp_path: Path) -> None:
    first = session(tmp_path, gamma=0.5)
    first.stage = "offline"
    first.agent.gradient_step = 17
    first.extra["acknowledged"] = 4
    path = first.finish_stage()
    assert path == tmp_path / "policies" / "offline.safetensors"
    again = session(tmp_path)
    assert again.resumed and again.stage == "offline" and again.version == 1
    assert again.agent.gradient_step == 17 and again.agent.config.gamma == 0.5
    assert again.extra["acknowledged"] == 4
    assert again.publish().info.version == 2
    first.close()


def test_a_learner_elsewhere_goes_on_with_the_number_of_the_checkpoint(tmp_path: Path) -> None:
    first = session(tmp_path / "a")
    first.stage = "online"
    first.publish()
    first.publish()
    first.save()
    second = Session(tmp_path / "b", TASK, seed=3, resume=tmp_path / "a")
    assert (second.shelf.newest, second.version) == (0, 2)
    second.skip_to(40)
    info = second.publish().info
    assert (info.version, info.parent) == (41, 2)
    second.skip_to(7)
    assert second.publish().info.version == 42


def test_weights_that_were_rolled_back_come_again_under_a_new_number(tmp_path: Path) -> None:
    made = session(tmp_path)
    made.stage = "online"
    first, second = made.publish(), made.publish()
    made.shelf.roll_back(1, "worse")
    again = made.republish(2, "it was the hand")
    assert (again.info.version, again.info.parent) == (3, 2) and made.shelf.active == 3
    wanted, got = decode_weights(second.data)[0].state_dict(), decode_weights(again.data)[0].state_dict()
    assert all(wanted[name].equal(got[name]) for name in wanted)
    assert made.shelf.entries[3].reason == "the weights of version 2: it was the hand"
    assert made.shelf.rolled_back == [2] and first.info.version == 1


def test_given_settings_overrule_those_of_the_checkpoint(tmp_path: Path) -> None:
    session(tmp_path, gamma=0.5).save()
    assert session(tmp_path, gamma=0.75).agent.config.gamma == 0.75


def test_settings_choose_the_networks_of_a_new_run_only(tmp_path: Path) -> None:
    made = session(tmp_path, policy="gaussian", width=32)
    assert made.agent.spec.policy == "gaussian" and made.agent.spec.width == 32
    made.save()
    assert session(tmp_path, policy="gaussian").agent.spec == made.agent.spec
    with pytest.raises(ParameterError, match="'policy' is 'flow', the checkpoint has 'gaussian'"):
        session(tmp_path, policy="flow")
    with pytest.raises(ParameterError, match="'state_dim'"):
        session(tmp_path / "other", state_dim=3)


def test_a_per_step_critic_has_a_policy_of_single_actions_and_windows_of_return_steps(tmp_path: Path) -> None:
    made = session(tmp_path, critic="per_step", return_steps=4)
    assert made.agent.spec.horizon == 1 and made.replay.horizon == 4
    made.save()
    again = session(tmp_path)
    assert again.agent.spec.horizon == 1 and again.replay.horizon == 4
    with pytest.raises(
        ParameterError, match="'critic' is 'per_step', but the policy's horizon is 5, must be 1"
    ):
        session(tmp_path / "other", critic="per_step", horizon=5)


def test_a_new_run_begins_from_another_ones_checkpoint_and_leaves_it_alone(tmp_path: Path) -> None:
    first = session(tmp_path / "a")
    first.agent.gradient_step = 5
    first.save()
    before = sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir())
    second = Session(tmp_path / "b", TASK, seed=3, resume=tmp_path / "a")
    assert second.resumed and second.agent.gradient_step == 5
    second.save()
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == before


def test_status_says_where_the_stage_stands(tmp_path: Path) -> None:
    made = session(tmp_path)
    made.stage = "warmup"
    made.record(1, 10, {"loss": 0.5})
    made.write_status(1, 10)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["stage"], status["step"], status["total"]) == ("warmup", 1, 10)
    assert status["scalars"] == {"loss": 0.5} and status["policy_version"] == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_goes_on_in_a_new_file_after_the_disk_took_no_more(tmp_path: Path) -> None:
    """Its own writer raises the first error ever after."""
    made = session(tmp_path)
    made.stage = "online"
    made._writer = SummaryWriter(str(tmp_path / "tensorboard"), flush_secs=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            for _ in range(1000):  # the queue to its thread holds ten
                made.log({"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    made.log({"loss": 0.25})
    made.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_demonstrations_fit_the_normaliser_of_a_new_agent(tmp_path: Path) -> None:
    toys = [Toy.make(seed=i, episode_id=f"e{i}") for i in range(3)]
    for i, toy in enumerate(toys):
        toy.write(tmp_path / "demos" / str(i))
    (file,) = (tmp_path / "demos" / "2").glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-100])
    made = session(tmp_path / "run", holdout_every=0)
    refused = made.load_demonstrations(tmp_path / "demos")
    assert len(refused) == 1 and "truncated" in refused[0]
    states = made.replay.states("offline")
    assert len(states) == 24
    mean = made.agent.policy.normalizer.mean.numpy()
    assert mean == pytest.approx(states.mean(0), abs=1e-5)
