"""How much of everything a demo does, and about how long each part takes."""

from __future__ import annotations

from dataclasses import dataclass, field

STAGES = ("teacher", "imitation", "warmup", "offline", "online")


@dataclass(frozen=True)
class Plan:
    """Sizes of a demo. The defaults fit 15 minutes on 2 cores."""

    task: str = "CubeRotation-v0"
    eyes: str = "none"
    """Where policy and reward know the cube from: "none", the simulation's state, or "camera"."""
    demonstrations: int = 60
    """Episodes of the scripted teacher."""
    eval_episodes: int = 20
    """Episodes after each stage, on the same start states."""
    online_minutes: float = 40.0
    """Robot minutes of the online stage."""
    online_wall: float = 480.0
    """[s] the online stage ends then, however many robot minutes it has."""
    speed: float = 6.0
    """Simulated seconds per second in the online stage; the world also waits for the policy."""
    settings: dict[str, float] = field(default_factory=dict)
    """Fields of the learner's Config that differ from its defaults."""

    def expected_seconds(self) -> dict[str, float]:
        """[s] for each part, from runs on two cores; only for the time that is shown as left."""
        evaluation = 4.0 + 1.2 * self.eval_episodes
        updates = self.settings.get
        return {
            "teacher": 4.0 + 0.8 * self.demonstrations,
            "imitation": 6.0 + updates("imitation_updates", 3000) / 70.0,
            "imitation evaluation": evaluation,
            "warmup": 6.0 + updates("warmup_max_updates", 1500) / 60.0,
            "warmup evaluation": evaluation,
            "offline": 6.0 + updates("offline_updates", 1000) / 20.0,
            "offline evaluation": evaluation,
            "online": min(self.online_wall, 12.0 + 75.0 * self.online_minutes / self.speed),
            "online evaluation": evaluation,
            "report": 10.0,
        }


QUICK = Plan(
    demonstrations=10,
    eval_episodes=3,
    online_minutes=1.5,
    online_wall=60.0,
    settings={
        "imitation_updates": 200,
        "warmup_min_updates": 50,
        "warmup_max_updates": 100,
        "warmup_check_every": 50,
        "offline_updates": 50,
    },
)
"""Shows that everything runs, in about two minutes; the figures mean nothing."""
