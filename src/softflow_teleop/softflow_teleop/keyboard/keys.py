"""What a key does: the pose that is asked for, or one of a few commands. Plain Python."""

from __future__ import annotations

import enum

from softflow_teleop.joints import Jog


class Command(enum.Enum):
    """What goes beyond a movement."""

    NONE = "none"
    ESTOP = "estop"
    TAKE = "take"
    GIVE = "give"
    REWARD = "reward"
    SUCCESS = "success"
    FAILURE = "failure"
    SUCCESS_BEFORE = "success before"
    FAILURE_BEFORE = "failure before"
    QUIT = "quit"


COMMANDS = {
    " ": Command.ESTOP,
    "t": Command.TAKE,
    "g": Command.GIVE,
    "r": Command.REWARD,
    "y": Command.SUCCESS,
    "n": Command.FAILURE,
    "Y": Command.SUCCESS_BEFORE,
    "N": Command.FAILURE_BEFORE,
    "q": Command.QUIT,
    "\x03": Command.QUIT,
}
NEXT, PREVIOUS, UP, DOWN = ("\x1b[C", "\x1b[D", "\x1b[A", "\x1b[B")
"""Arrow keys as a terminal sends them."""
HELP = (
    "t take   g give back   space EMERGENCY STOP   r reward   q quit\n"
    "left/right select a joint   up/down move it   c/o close and open   s next synergy\n"
    "y success   n failure of this episode   Y/N of the one before it"
)


class Keys:
    """Selected joint and synergy, and the pose; movements count only while the human has the hand."""

    def __init__(self, names: tuple[str, ...], synergies: tuple[str, ...], step: float) -> None:
        """`step`: share of a joint's range, and of a synergy, a press."""
        self.names, self.synergies, self.step = names, synergies, step
        self.joint = 0
        self.synergy = 0

    def press(self, key: str, jog: Jog | None) -> Command:
        """Take in a key; `jog` is None while the hand is not the human's."""
        if key in COMMANDS:
            return COMMANDS[key]
        if key in (NEXT, PREVIOUS):
            self.joint = (self.joint + (1 if key == NEXT else -1)) % len(self.names)
        elif key == "s" and self.synergies:
            self.synergy = (self.synergy + 1) % len(self.synergies)
        elif jog is not None and key in (UP, DOWN):
            jog.joint(self.names[self.joint], self.step if key == UP else -self.step)
        elif jog is not None and key in "co" and self.synergies:
            jog.synergy(self.synergies[self.synergy], self.step if key == "c" else -self.step)
        return Command.NONE

    def line(self, jog: Jog | None) -> str:
        """How things stand, in one line."""
        synergy = f", synergy {self.synergies[self.synergy]}" if self.synergies else ""
        where = f" at {jog.pose[self.joint]:+.3f}" if jog is not None else ""
        whose = "yours" if jog is not None else "not yours (t takes it)"
        return f"the hand is {whose}; joint {self.names[self.joint]}{where}{synergy}"


def split_keys(text: str) -> list[str]:
    """Keys of what a terminal sent at once: arrows are three characters, all others one."""
    keys, arrows = [], (NEXT, PREVIOUS, UP, DOWN)
    while text:
        size = 3 if text[:3] in arrows else 1
        keys.append(text[:size])
        text = text[size:]
    return keys
