"""Calls in the host's memory, inside a kernel's own process: one after another."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from typing import Any

import torch

from pytest_avo.evaluation.kernel_process.calls import deliver_all, distinct, forms, function, options, places, tensors
from pytest_avo.evaluation.kernel_process.wire import CHILD_INPUT, CHILD_OUTPUT


class HostCalls:
    """Calls on tensors in the host's memory, one after another."""

    def __init__(self) -> None:
        self._given, self._result = (
            torch.frombuffer(mmap.mmap(descriptor, os.fstat(descriptor).st_size), dtype=torch.uint8)
            for descriptor in (CHILD_INPUT, CHILD_OUTPUT)
        )
        self._enqueued: dict[str, Any] = {}

    def answer(self, functions: Mapping[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        """Make the calls of a request and say what they returned."""
        found, total_s = [], 0.0
        for call in request["calls"]:
            called = function(functions, call)
            arguments, by_name = tensors(self._given, call), options(self._given, call)
            start = time.perf_counter()
            out = called(*arguments, **by_name)
            total_s += time.perf_counter() - start
            deliver_all(out, places(self._result, call))
            found += forms(out, arguments, call)
        return {"calls": len(request["calls"]), "forms": distinct(found), "seconds": total_s}

    def enqueue(self, functions: Mapping[str, Any], request: dict[str, Any]) -> None:
        """Make the calls of a request; here they are finished when they return."""
        self._enqueued = self.answer(functions, request)

    def finish(self) -> dict[str, Any]:
        """What the calls that were enqueued returned."""
        return self._enqueued
