"""Work of the judge on a second core, while no kernel is asked anything: a thread of its own, kept for the next work.

Numbers are drawn and outputs are judged by operations that let other threads run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T")


class Deferred(Generic[T]):
    """Work that the other thread may begin; whoever wants its result does it itself where that had no turn yet."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._future: Future[T] = _second_thread().submit(work)

    def result(self) -> T:
        """What came of it; raises what it raised."""
        return self._work() if self._future.cancel() else self._future.result()

    def forget(self) -> None:
        """Wait until it is over, or will not be begun, whatever comes of it."""
        if not self._future.cancel():
            self._future.exception()


@cache
def _second_thread() -> ThreadPoolExecutor:
    import torch

    def as_the_first() -> None:
        # What a process has set its first thread to, torch knows on others, and libraries below it do not: they would
        # start threads of their own here.
        torch.set_num_threads(torch.get_num_threads())

    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="avo-judge", initializer=as_the_first)
