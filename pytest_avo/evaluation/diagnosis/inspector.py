"""Looks into a kernel on a worker's device instead of judging it: profiles, compile reports, scripts, as text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.devices.device import Device
from pytest_avo.evaluation.devices.lease import lease, lease_path
from pytest_avo.evaluation.devices.rates import stored_rates
from pytest_avo.evaluation.diagnosis.child import Child
from pytest_avo.evaluation.diagnosis.compile import ARCHITECTURES, LaunchReport
from pytest_avo.evaluation.diagnosis.counters import digest, ncu
from pytest_avo.evaluation.diagnosis.counters.call import TracedLaunch
from pytest_avo.evaluation.diagnosis.counters.measured import MeasuredLaunch
from pytest_avo.evaluation.diagnosis.host_build import host_report
from pytest_avo.evaluation.diagnosis.machine import machine_facts
from pytest_avo.evaluation.diagnosis.profile import profile
from pytest_avo.evaluation.diagnosis.report import compiled_records
from pytest_avo.evaluation.diagnosis.scratch import run_scratch

KEPT = 8
"""Kernels whose counters are kept: the incumbent is looked at again and again."""
TRACE_LIMIT_S = 120.0


class Inspector:
    """Answers requests to look into kernels on one device."""

    def __init__(self, device: Device, *, confined: bool) -> None:
        self._device = device
        self._confined = confined
        self._counted: OrderedDict[tuple[str, str], list[MeasuredLaunch]] = OrderedDict()

    def look(self, request: EvaluationRequest) -> Iterator[Evaluation]:
        """One answer a shape, whose `diagnosis` is what was found; where nothing was, its reason says why."""
        for shape in request.shapes:
            try:
                text = self._look(request, shape)
            except EvaluatorError as error:
                yield Evaluation(shape.id, "unsupported", reason=str(error), device=self._device.fingerprint().device)
            else:
                yield Evaluation(shape.id, "ok", diagnosis=text, device=self._device.fingerprint().device)

    def _look(self, request: EvaluationRequest, shape: Shape) -> str:
        draft, on_gpu = _kernel(request.subject), self._device.place != "cpu"
        match request.look:
            case "machine":
                return machine_facts(self._device, rates=self._rates())
            case "scratch":
                beside = "" if request.baseline is None else request.baseline.source
                environment = ncu.with_libraries(self._device.environment()) if on_gpu else {}
                with self._lease(exclusive=on_gpu):
                    return run_scratch(
                        draft.source, beside, confined=self._confined, gpu=on_gpu, environment=environment
                    )
            case "compile":
                return host_report(draft, shape, function=request.function, confined=self._confined)
            case _ if not on_gpu:
                return profile(draft, shape, confined=self._confined)
        with self._lease(exclusive=True):
            return self._on_gpu(draft, request.baseline, shape)

    def _lease(self, *, exclusive: bool) -> AbstractContextManager[float]:
        return lease(lease_path(self._device.id), exclusive=exclusive, waiting=lambda _: None)

    def _rates(self) -> dict[str, float]:
        """What the device was measured to do; nothing where no kernel was timed on it yet."""
        rates = stored_rates(self._device.fingerprint())
        return (
            {}
            if rates is None
            else {"bytes": rates.bytes_per_s} | {str(name): rate for name, rate in rates.flops_per_s.items()}
        )

    def _on_gpu(self, draft: Kernel, baseline: Subject | None, shape: Shape) -> str:
        label = "" if baseline is None else baseline.label
        try:
            counted = ncu.count(draft, shape, environment=self._device.environment(), confined=self._confined)
        except ncu.NoCounters as why:
            return self._without_counters(draft, baseline, shape, why=str(why))
        beside: list[MeasuredLaunch] = []
        if baseline is not None and baseline.source != draft.source:
            beside = self._known(baseline, shape)
        head = f"ncu, one call on {shape.id}; its longest launch, caches flushed and clocks left alone"
        return f"{head}\n{digest.digest(counted, beside, label=label)}"

    def _known(self, subject: Subject, shape: Shape) -> list[MeasuredLaunch]:
        """The counters of a kernel that is looked at often; [] where it has none."""
        key = subject.source, shape.id
        if key not in self._counted:
            try:
                self._counted[key] = ncu.count(
                    _kernel(subject), shape, environment=self._device.environment(), confined=self._confined
                )
            except (ncu.NoCounters, EvaluatorError):
                return []
            while len(self._counted) > KEPT:
                self._counted.popitem(last=False)
        return self._counted[key]

    # ---- where counters are forbidden

    def _without_counters(self, draft: Kernel, baseline: Subject | None, shape: Shape, *, why: str) -> str:
        """Timing, occupancy and machine code, which need none."""
        launches = self._trace(draft, shape)
        beside: list[TracedLaunch] = []
        if baseline is not None and baseline.source != draft.source:
            beside = self._trace(_kernel(baseline), shape)
        label = "" if baseline is None else baseline.label
        parts = [
            f"no counters: {why}. What can be known without them, of one call on {shape.id}:",
            digest.traced(launches, beside, label=label),
            *self._machine_code(draft, shape),
        ]
        return "\n".join(parts)

    def _trace(self, kernel: Kernel, shape: Shape) -> list[TracedLaunch]:
        arguments = ["--shape", msgspec.json.encode(shape).decode(), "--trace"]
        environment = ncu.with_libraries(self._device.environment())
        with (
            Child(
                "counters.call", kernel, confined=self._confined, arguments=arguments, environment=environment
            ) as child,
            child.within(TRACE_LIMIT_S),
        ):
            lines = child.answers.read().splitlines()
            status = child.status()
            if not child.in_time:
                raise EvaluatorError(f"{kernel.path.name}: no profile within {TRACE_LIMIT_S:g} s")
            if status:
                fault = ncu.fault_of(child.end_of_words()) or child.last_words()
                raise EvaluatorError(f"{kernel.path.name}: no profile: {fault}")
        return [msgspec.json.decode(line, type=TracedLaunch) for line in lines]

    def _machine_code(self, kernel: Kernel, shape: Shape) -> Iterator[str]:
        """What it compiles to, in a line a launch."""
        if self._device.target not in ARCHITECTURES:
            return
        try:
            records = compiled_records(kernel, [shape], target=self._device.target, confined=self._confined)
        except EvaluatorError as error:
            yield f"no compile report: {error}"
            return
        for record in records:
            if isinstance(record, LaunchReport):
                yield (
                    f"SASS of {record.kernel}: {record.registers} registers, "
                    f"{record.spill_stores + record.spill_loads} bytes spilled, {record.wgmma_count} wgmma"
                    f"{' (serialised)' if record.wgmma_serialized else ''}, "
                    f"{record.hot_local} local loads and stores in its loops"
                )


def _kernel(subject: Subject) -> Kernel:
    return Kernel(path=Path("kernel.py"), source=subject.source, claim=None, tunables=(), fault="")
