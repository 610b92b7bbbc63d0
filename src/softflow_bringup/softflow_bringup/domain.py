"""A ROS domain of one's own, so that two demos on one machine do not drive each other's hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import domain_coordinator

VARIABLE = "ROS_DOMAIN_ID"


@contextmanager
def private_domain() -> Iterator[int]:
    """Set ROS_DOMAIN_ID to one that no other softflow command uses now; a domain the user chose stays."""
    if VARIABLE in os.environ:
        yield int(os.environ[VARIABLE])
        return
    reservation = ExitStack()
    domain = int(reservation.enter_context(domain_coordinator.domain_id()))
    os.environ[VARIABLE] = str(domain)
    try:
        yield domain
    finally:
        del os.environ[VARIABLE]
        # Not a with block: domain_id would take an OSError of ours for its own and try the next domain.
        reservation.close()
