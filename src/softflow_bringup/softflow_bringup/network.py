"""How nodes on several hosts find each other: graph arguments as environment of the nodes. Pure Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softflow_bringup.values import GraphError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""Variable that names the middleware's profile."""
TRANSPORTS = {"udp": "fastdds_udp.xml"}
"""Profiles that replace the one in force; `auto` leaves it."""


def network_environment(where: str, values: Mapping[str, Any], configuration: Path) -> dict[str, str]:
    """Environment variables that follow from `peers`, `discovery_server` and `transport`.

    What is not given is left to the shell.

    Raises:
        GraphError: an address of another form, or two ways of discovery at once.
    """
    peers = [peer.strip() for peer in values.get("peers", "").split(",") if peer.strip()]
    server = values.get("discovery_server", "")
    if peers and server:
        raise GraphError(
            f"{where}: argument 'discovery_server' is {server!r}, must be empty with peers:={','.join(peers)}"
        )
    environment = {}
    if peers:
        for peer in peers:
            if not _HOST.fullmatch(peer):
                raise GraphError(f"{where}: argument 'peers': {peer!r} is not a host name or an IPv4 address")
        environment["ROS_STATIC_PEERS"] = ";".join(peers)
    if server:
        _check_server(where, server)
        environment["ROS_DISCOVERY_SERVER"] = server
    profile = TRANSPORTS.get(values.get("transport", "auto"))
    if profile:
        environment[PROFILE] = str(configuration / profile)
        # Within LOCALHOST the middleware puts its own transports, shared memory among them, in place of the profile's.
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
    return environment


def _check_server(where: str, server: str) -> None:
    host, _, port = server.rpartition(":")
    if not _HOST.fullmatch(host) or not port.isdigit() or not 0 < int(port) < 65536:
        raise GraphError(f"{where}: argument 'discovery_server' is {server!r}, must be HOST:PORT")
