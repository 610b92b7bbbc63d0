"""Whether the environment asks for DDS-Security, and asks so that it holds. Plain Python.

rcl takes `Permissive`, which is its default, as leave to run unsecured wherever anything is missing, and any value of
ROS_SECURITY_ENABLE but `true` as no. A node that was meant to be secured must not find that out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ENABLE, STRATEGY, KEYSTORE = "ROS_SECURITY_ENABLE", "ROS_SECURITY_STRATEGY", "ROS_SECURITY_KEYSTORE"


class SecurityError(ValueError):
    """The environment asks for security in a way that would not hold. The text names field, value and bound."""


def secured_environment(keystore: Path) -> dict[str, str]:
    """The variables under which a node runs secured or not at all."""
    return {ENABLE: "true", STRATEGY: "Enforce", KEYSTORE: str(keystore.absolute())}


def check_security(environment: Mapping[str, str]) -> bool:
    """Whether DDS-Security is enforced. Raises SecurityError where it is asked for but would not hold."""
    enable, strategy = environment.get(ENABLE, ""), environment.get(STRATEGY, "")
    if enable == "false" or not (enable or strategy):
        return False
    if enable != "true":
        raise SecurityError(
            f"{ENABLE} is {enable!r}, must be 'true' or 'false': otherwise nothing would be secured"
        )
    if strategy != "Enforce":
        raise SecurityError(
            f"{STRATEGY} is {strategy!r}, must be 'Enforce': otherwise a node without keys would run unsecured"
        )
    if not Path(environment.get(KEYSTORE, "")).joinpath("enclaves").is_dir():
        raise SecurityError(
            f"{KEYSTORE} is {environment.get(KEYSTORE, '')!r}, must be a keystore; ./softflow keystore DIR makes one"
        )
    return True


def explain_failure(error: BaseException) -> str:
    """One line about a node that could not be secured, from what the middleware raised."""
    text = " ".join(str(error).split())
    if "security libraries" in text:
        text = "this build of the middleware has no DDS-Security (the distribution's ROS 2 has)"
    return f"{STRATEGY} is 'Enforce' and the node cannot be secured, so it does not run: {text}"
