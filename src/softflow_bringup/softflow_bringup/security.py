"""DDS-Security in a node graph: which enclave a node runs in, and the environment that enforces it. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softflow_bringup.values import GraphError
from softflow_node.security import secured_environment

ROOT = "/softflow"
"""Where our enclaves begin."""


def enclave_path(namespace: str, name: str) -> str:
    """`/softflow/hand0/driver`: every robot has keys of its own, so that none can command another's hand."""
    return f"{ROOT}{namespace.rstrip('/')}/{name}"


def secure(where: str, node: Mapping[str, Any], keystore: str) -> dict[str, Any]:
    """The fields `enclave` and `environment` of a node; without a keystore it has no enclave.

    Raises:
        GraphError: the node names no enclave, or the keystore has no keys for it.
    """
    environment = dict(node.get("environment", {}))
    if not keystore:
        return {"enclave": "", "environment": environment}
    if not node.get("enclave"):
        raise GraphError(f"{where}.enclave: is missing; with a keystore every node needs one")
    enclave = enclave_path(node["namespace"], node["enclave"])
    keys = Path(keystore).absolute() / "enclaves" / enclave.lstrip("/")
    if not (keys / "permissions.p7s").is_file():
        raise GraphError(
            f"{where}.enclave: no keys for {enclave} in keystore {keystore!r}; ./softflow keystore makes them"
        )
    return {"enclave": enclave, "environment": {**environment, **secured_environment(Path(keystore))}}
