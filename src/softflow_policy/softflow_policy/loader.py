"""Checks and loads weights beside the thread that plans, so that no chunk comes late for it. Plain Python."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from softflow_policy.cache import Cache
from softflow_policy.loaded import LoadedPolicy, load_policy
from softflow_policy.versions import Announcement
from softflow_tasks.task import Task


class Loader:
    """One thread, which does its jobs in order."""

    def __init__(self, task: Task, cache: Cache | None) -> None:
        self._task, self._cache = task, cache
        # PyTorch counts threads per calling thread.
        self._pool = ThreadPoolExecutor(1, "weights", initializer=torch.set_num_threads, initargs=(1,))

    def load(self, data: bytes, said: Announcement) -> Future[LoadedPolicy]:
        """The result raises WeightsError for weights that must not act; see `load_policy`."""
        return self._pool.submit(load_policy, data, self._task, said)

    def store(self, loaded: LoadedPolicy, rolled_back: list[int]) -> Future[None] | None:
        """Keep what is in force on the disk. The result raises OSError."""
        if self._cache is None:
            return None
        return self._pool.submit(self._cache.store, loaded.info.version, loaded.data, rolled_back)

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()
