"""Canary episodes on the robot: whole episodes, in turn the candidate's and the active weights'. Plain Python."""

from __future__ import annotations

from softflow_policy.loaded import LoadedPolicy


class Alternation:
    """Who plays an episode is settled at its first chunk, by counting episodes."""

    def __init__(self) -> None:
        self._candidate = 0
        """Version that is being counted for, 0 = none."""
        self._episodes = 0
        self._episode_id = ""
        self._candidate_plays = False

    def choose(self, episode_id: str, active: LoadedPolicy, candidate: LoadedPolicy | None) -> LoadedPolicy:
        """The weights for the next chunk. A candidate that was withdrawn, or put in force, plays no further as one."""
        version = candidate.info.version if candidate else 0
        if version != self._candidate:
            self._candidate, self._episodes, self._candidate_plays = version, 0, False
            # An episode that runs already belongs to whoever began it.
            if episode_id == self._episode_id:
                return active
        if episode_id != self._episode_id:
            self._episode_id = episode_id
            self._candidate_plays = candidate is not None and self._episodes % 2 == 0
            self._episodes += 1
        return candidate if candidate is not None and self._candidate_plays else active
