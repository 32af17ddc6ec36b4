"""Calls on a GPU, inside a kernel's own process: one after another, or replayed from a CUDA graph.

A replay takes the host's part of the launches out of the measurement, as a model that launches ahead or captures its
own graph does. A kernel that cannot be captured is called as it is, and the reply says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pytest_avo.evaluation.devices import gpu_memory
from pytest_avo.evaluation.kernel_process.calls import deliver_all, distinct, forms, function, options, places, tensors
from pytest_avo.evaluation.kernel_process.wire import CHILD_INPUT, CHILD_OUTPUT

WARM_UP_CALLS = 2
# As they are before any kernel is loaded: one that replaces torch's own would only confuse its account.
_synchronize = torch.cuda.synchronize
_record = torch.cuda.Event.record
_elapsed_ms = torch.cuda.Event.elapsed_time


@dataclass(frozen=True, slots=True)
class _Slice:
    """Calls that are asked for again and again: where their arguments and results are, and their graph.

    Without a graph the kernel resisted being captured. `forms` are what the captured calls returned.
    """

    calls: list[dict[str, Any]]
    arguments: list[list[torch.Tensor]]
    options: list[dict[str, Any]]
    places: list[tuple[torch.Tensor, ...]]
    graph: torch.cuda.CUDAGraph | None = None
    forms: list[dict[str, Any]] = field(default_factory=list)


class GpuCalls:
    """Calls on tensors in the memory that the judge shares. Everything queued anywhere ends before an answer."""

    def __init__(self, given_bytes: int, result_bytes: int) -> None:
        torch.zeros(1, device="cuda")  # makes the context current for the driver's own calls
        self._given, self._result = (
            gpu_memory.as_bytes(gpu_memory.attach(descriptor, size), size)
            for descriptor, size in ((CHILD_INPUT, given_bytes), (CHILD_OUTPUT, result_bytes))
        )
        self._slices: dict[str, _Slice] = {}
        self._captures: dict[str, _Slice] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._enqueued: tuple[list[Any], _Slice] | None = None

    def answer(self, functions: Mapping[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        """Make the calls of a request, or replay them, and say what they returned."""
        if request["do"] == "call":
            return self._launch(functions, self._slice(request["calls"]))
        if request["do"] == "launch":
            return self._launch(functions, self._named(request))
        name = request["name"]
        if name not in self._captures:
            self._captures[name] = self._captured(functions, self._slice(request["calls"]))
        found = self._captures[name]
        return self._launch(functions, found) if found.graph is None else self._replay(found, found.graph)

    def enqueue(self, functions: Mapping[str, Any], request: dict[str, Any]) -> None:
        """Launch the calls of a request and wait for none of them."""
        wanted = self._named(request)
        self._enqueued = _call_all(functions, wanted), wanted

    def finish(self) -> dict[str, Any]:
        """Wait for the calls that were enqueued and say what they returned."""
        if self._enqueued is None:
            raise RuntimeError("nothing was enqueued")
        _synchronize()
        (results, wanted), self._enqueued = self._enqueued, None
        return {"calls": len(results), "forms": _forms(results, wanted), "seconds": 0.0, "replayed": False}

    def _named(self, request: dict[str, Any]) -> _Slice:
        """The slice of a request that names it; what it is made of is sent with the first of them alone."""
        name = request["name"]
        if name not in self._slices:
            self._slices[name] = self._slice(request["calls"])
        return self._slices[name]

    def _slice(self, calls: list[dict[str, Any]]) -> _Slice:
        arguments = [tensors(self._given, call) for call in calls]
        by_name = [options(self._given, call) for call in calls]
        return _Slice(calls, arguments, by_name, [places(self._result, call) for call in calls])

    def _launch(self, functions: Mapping[str, Any], wanted: _Slice) -> dict[str, Any]:
        start, end = _mark(), _mark()
        _synchronize()
        _record(start)
        results = _call_all(functions, wanted)
        _record(end)
        _synchronize()
        seconds = _elapsed_ms(start, end) / 1e3
        return {"calls": len(results), "forms": _forms(results, wanted), "seconds": seconds, "replayed": False}

    def _replay(self, recorded: _Slice, graph: torch.cuda.CUDAGraph) -> dict[str, Any]:
        start, end = _mark(), _mark()
        _synchronize()
        _record(start)
        graph.replay()
        _record(end)
        _synchronize()
        seconds = _elapsed_ms(start, end) / 1e3
        return {"calls": len(recorded.calls), "forms": recorded.forms, "seconds": seconds, "replayed": True}

    def _captured(self, functions: Mapping[str, Any], wanted: _Slice) -> _Slice:
        """The slice with its graph; without, where the kernel resists."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_CALLS):
                    _call(functions, wanted, 0)
            _synchronize()
            with torch.cuda.graph(graph, pool=self._pool):
                # Copied in the graph too, since hundreds of launches by hand take now more, now less.
                results = _call_all(functions, wanted)
        except Exception as error:
            print(f"not captured in a CUDA graph: {error}", flush=True)  # noqa: T201 - the kernel's log
            _synchronize()
            return wanted
        return replace(wanted, graph=graph, forms=_forms(results, wanted))


def _mark() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _call(functions: Mapping[str, Any], wanted: _Slice, number: int) -> Any:
    called = function(functions, wanted.calls[number])
    return called(*wanted.arguments[number], **wanted.options[number])


def _call_all(functions: Mapping[str, Any], wanted: _Slice) -> list[Any]:
    """The results of all calls, each copied out before the next call: a kernel may use its buffer again."""
    results = []
    for number, place in enumerate(wanted.places):
        results.append(_call(functions, wanted, number))
        deliver_all(results[-1], place)
    return results


def _forms(results: list[Any], asked: _Slice) -> list[dict[str, Any]]:
    each = zip(results, asked.arguments, asked.calls, strict=True)
    return distinct([found for out, qkv, call in each for found in forms(out, qkv, call)])
