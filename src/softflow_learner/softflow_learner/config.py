"""The learner's settings. `config/` mirrors these names; an unknown one is an error that names it."""

from __future__ import annotations

import dataclasses

from softflow_node.parameters import ParameterError, Validated, bounded
from softflow_policy.spec import PolicySpec

CHUNK_ENDS = ("hold", "drop")
"""What becomes of a chunk that runs past the end of its episode."""


@dataclasses.dataclass(frozen=True)
class Config(Validated):
    """Every number the four stages use; sizes of networks are in `PolicySpec`."""

    # -- All stages
    seed: int = bounded(0, low=0, high=2**31 - 1)
    # 256 windows fill the matrix units of one core; twice as many take twice as long.
    batch_size: int = bounded(256, low=1, high=65536, unit="windows")
    # Adam's usual step; networks with LayerNorm bear it.
    learning_rate: float = bounded(3e-4, low=1e-7, high=1e-1)
    # The actor's, in every stage: a density bears, and needs, larger steps than values that chase themselves, the more
    # so with an average of the actor (`actor_tau`) to act by.
    actor_rate: float = bounded(1.0, low=1e-3, high=100.0, unit="of the learning rate")
    # Norm; a batch with a drop in it has rare, large TD errors.
    gradient_clip: float = bounded(1.0, low=1e-3, high=1e6)
    # So many steps in a row without a finite loss and gradient: the run stops, the last checkpoint is good.
    max_consecutive_skips: int = bounded(20, low=1, high=10**6, unit="updates")

    # What the networks' products are worked out in; densities, losses and weights are in float32 either way. bfloat16
    # is about twice as fast where the processor has instructions for it, and several times slower where it has not.
    precision: str = bounded("float32", choices=("float32", "bfloat16"))
    # torch.compile: fewer passes over memory, for half a minute of compiling at the first update of each kind.
    compiled: bool = False

    # -- Stage 1, imitation
    imitation_updates: int = bounded(3000, low=0, high=10**8, unit="updates")
    # Noise on the data chunks. Smaller than METHOD.md's 0.05: a few hundredths of closure decide a grip.
    imitation_sigma: float = bounded(0.02, low=0.0, high=1.0, unit="of the action range's half")

    # Imitate the demonstrations that succeeded only; those that failed tell the critic what not to do. Where the reward
    # is sparse, whoever imitates failures learns to hover, and a critic that has seen none of them overrates much.
    successful_demonstrations: bool = False

    # Pictures are moved at random by up to so much when they are learned from (DrQ, arXiv 2004.13649: 4 of 84 pixels).
    # Where a millimetre decides a grip, that much would blur what is to be seen.
    image_shift: float = bounded(0.02, low=0.0, high=0.5, unit="of the picture's side")
    # Imitation teaches the encoder by the teacher's actions; with this weight also by where things are: the mean square
    # error with which its code tells the hidden entries of the state. Demonstrations must then know them.
    hidden_weight: float = bounded(0.0, low=0.0, high=1e3)
    # After imitation the pictures' encoder learns from the critic's loss at this share of the learning rate. 0: it
    # stays as imitation left it, and what it feeds does not move under the critic.
    encoder_rate: float = bounded(0.0, low=0.0, high=1.0, unit="of the learning rate")

    # -- Stage 2, critic warm-up
    # What the critic values: whole chunks over the policy's horizon, or (a baseline) single actions of a policy with
    # horizon 1, whose targets then sum `return_steps` rewards of the data without correction.
    critic: str = bounded("chunk", choices=("chunk", "per_step"))
    # per_step only: as many steps as a chunk has, so that both back values up equally fast.
    return_steps: int = bounded(5, low=1, high=64, unit="steps")
    # 0.99 at 20 Hz looks 5 s ahead: two twists of the cube.
    gamma: float = bounded(0.99, low=0.0, high=1.0, unit="1/step")
    # How the critics' values make one: min is pessimistic about chunks that the data lack.
    aggregate: str = bounded("min", choices=("min", "mean"))
    # So many critics, drawn anew for each target, are aggregated (REDQ, arXiv 2101.05982); 0 = all.
    aggregate_subset: int = bounded(0, low=0, high=16, unit="critics")
    # x' of a target: one sample of the policy, or the best of so many by the target critics, as the robot acts
    # (Q-chunking, arXiv 2507.07969); costs so many times the sampling.
    target_best_of: int = bounded(1, low=1, high=64, unit="chunks")
    # The target network follows in 1 / tau updates.
    target_tau: float = bounded(0.01, low=1e-5, high=1.0, unit="1/update")
    warmup_min_updates: int = bounded(500, low=0, high=10**8, unit="updates")
    warmup_max_updates: int = bounded(1500, low=0, high=10**8, unit="updates")
    # The gate is looked at this often.
    warmup_check_every: int = bounded(250, low=1, high=10**6, unit="updates")
    # Plateau: the TD loss, as a share of the targets' variance, has stayed within such a range for three looks. Against
    # itself it would never settle: it grows and shrinks with the values, however little is left to explain.
    warmup_plateau: float = bounded(0.02, low=0.0, high=1.0, unit="of the targets' variance")
    # Spearman's correlation between Q and the return on held-out episodes that opens the gate.
    warmup_rank_correlation: float = bounded(0.3, low=-1.0, high=1.0)

    # -- Stage 3, offline RL
    offline_updates: int = bounded(1000, low=0, high=10**8, unit="updates")
    # What keeps the policy near the data: data_nll, likelihood of the data's chunks (METHOD.md's reading A);
    # reverse_kl, exact KL to the policy at the start of this stage (B); target, that KL and the same as a penalty
    # inside y (C, as BRAC has both).
    regulariser: str = bounded("data_nll", choices=("data_nll", "reverse_kl", "target", "none"))
    # Weight of the regulariser, per dimension, against a Q normalised to 1. Below about 1 the offline stage leaves the
    # data and drops the cube; above about 4 it hardly moves.
    beta: float = bounded(2.0, low=0.0, high=1e4)
    # target: what one nat/dim of KL costs in y. A tenth of a reward of 1 per step.
    target_penalty: float = bounded(0.1, low=0.0, high=1e4, unit="reward/(nat/dim)")
    # EMA of the actor: what acts and what the targets draw from follows in 1 / actor_tau updates; 0 = off.
    actor_tau: float = bounded(0.0, low=0.0, high=1.0, unit="1/update")
    # Weight of E[sum relu(|x| - 1)^2]: keeps samples within reach of the straight-through clip.
    kappa: float = bounded(1.0, low=0.0, high=1e4)

    # -- Stage 4, online RL
    # Critic updates per chunk of experience (h steps).
    update_to_data: float = bounded(1.25, low=0.0, high=100.0, unit="updates/chunk")
    # An actor update each so many critic updates.
    actor_every: int = bounded(2, low=1, high=1000, unit="updates")
    # Share of each batch from demonstrations.
    offline_fraction: float = bounded(0.25, low=0.0, high=1.0)
    # Below this, online windows are too few and alike to be half of a batch.
    online_min_steps: int = bounded(500, low=1, high=10**8, unit="steps")
    # Critic-only at first, while the online data are new to it.
    online_critic_only_steps: int = bounded(1000, low=0, high=10**8, unit="steps")
    # beta falls linearly to this share of itself ...
    beta_final: float = bounded(0.4, low=0.0, high=1.0)
    # ... within so many online steps.
    beta_anneal_steps: int = bounded(6000, low=1, high=10**9, unit="steps")

    # -- Replay
    # A chunk that runs past the episode's end is padded by holding the last action, or not imitated. It trains the
    # critic either way.
    chunk_end: str = bounded("hold", choices=CHUNK_ENDS)
    # 14 h at 20 Hz; 0.4 GB with a state of 34 numbers.
    replay_capacity: int = bounded(1_000_000, low=100, high=10**9, unit="steps")
    # States and actions in a file of the run directory that goes with the process, for more than memory holds.
    replay_on_disk: bool = bounded(False)
    # Every so manieth demonstration is kept from training for the gate; 0 = none.
    holdout_every: int = bounded(10, low=0, high=10**6, unit="episodes")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_min_updates > self.warmup_max_updates:
            raise ParameterError(
                f"Config: parameter 'warmup_min_updates' is {self.warmup_min_updates}, "
                f"must be at most warmup_max_updates = {self.warmup_max_updates}"
            )

    def window_steps(self, spec: PolicySpec) -> int:
        """h of the replay's windows: rewards that a target sums before it bootstraps."""
        return self.return_steps if self.critic == "per_step" else spec.horizon


NEEDS_LIKELIHOOD = ("reverse_kl", "target")
"""Regularisers that compare the densities of two policies."""


def check_fit(config: Config, spec: PolicySpec) -> None:
    """Settings that this policy cannot follow. Raises ParameterError."""
    if config.critic == "per_step" and spec.horizon != 1:
        raise ParameterError(
            f"Config: parameter 'critic' is 'per_step', but the policy's horizon is {spec.horizon}, must be 1"
        )
    if config.aggregate_subset > spec.critic_members:
        raise ParameterError(
            f"Config: parameter 'aggregate_subset' is {config.aggregate_subset}, must be at most "
            f"critic_members = {spec.critic_members}"
        )
    if config.regulariser == "target" and config.target_best_of != 1:
        raise ParameterError(
            f"Config: parameter 'target_best_of' is {config.target_best_of}, must be 1 with regulariser 'target': "
            "its penalty is for a sample of the policy"
        )
    if config.regulariser in NEEDS_LIKELIHOOD and spec.policy == "flow_matching":
        raise ParameterError(
            f"Config: parameter 'regulariser' is {config.regulariser!r}, but policy 'flow_matching' has no "
            "likelihood; allowed: data_nll (its regression loss), none"
        )
