"""What was measured of kernels: rows of the file that ships, of `--avo-json`, and of a lineage."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from pytest_avo import PACKAGE
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import KERNEL, Evaluation
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import compare
from pytest_avo.lineage.records import Attempt, Purpose
from pytest_avo.lineage.view import View, runs

SHIPPED = PACKAGE / "kernels" / "measured.csv"
TORCH = "torch-sdpa"
TORCH_CHOOSES_FROM = ("cudnn", "fa2")
"""What torch chooses from on a GPU where it was not timed itself: which one depends on its version and cuDNN's."""
PURPOSES: tuple[Purpose, ...] = ("confirm", "screen")
COLUMNS = ("kernel", "device", "date", "shape", "median_us", "ratio", "low", "host_us", "torch_host_us")
_ID = re.compile(
    r"b(?P<batch>\d+)-h(?P<heads_q>\d+)(kv(?P<heads_kv>\d+))?-q(?P<seqlen_q>\d+)-k(?P<seqlen_kv>\d+)"
    r"-d(?P<head_dim>\d+)-(?P<mask>causal|full)-(?P<dtype>f32|bf16|f16)(-s[^-]+)?"
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One kernel on one shape beside torch, right on it."""

    kernel: str
    """The kernel's file as the results name it."""
    digest: str
    """Digest of the kernel's text; "" where the results do not have it."""
    device: str
    date: str
    shape: Shape
    median_us: float
    """Time of a call; on a GPU what the device spends."""
    ratio: float
    """Torch's time over the kernel's: above 1 the kernel is faster."""
    low: float
    """The lower end of the ratio's 95% interval."""
    host_us: float = 0.0
    """What the host spends on a call of a kernel for GPUs, 0 where it was not measured or the device is a CPU."""
    torch_host_us: float = 0.0
    """The host's part of a call of torch's."""

    def gain(self, *, host_us: float) -> tuple[float, float]:
        """The ratio and its lower end in an eager model, which pays what the host spends on a call beyond torch's.

        `host_us` stands in where the kernel's was not measured.
        """
        call_us = self.median_us + max(0.0, (self.host_us or host_us) - self.torch_host_us)
        return self.ratio * self.median_us / call_us, self.low * self.median_us / call_us


def shape_of(id_: str) -> Shape | None:
    """The shape that a generated id names; None where it names none."""
    found = _ID.fullmatch(id_)
    if found is None:
        return None
    sizes = {name: int(found[name]) for name in ("batch", "heads_q", "seqlen_q", "seqlen_kv", "head_dim")}
    table = {**sizes, "heads_kv": int(found["heads_kv"] or found["heads_q"]), "causal": found["mask"] == "causal"}
    try:
        return msgspec.convert({**table, "dtype": found["dtype"]}, Shape)
    except msgspec.ValidationError:
        return None


def shipped() -> tuple[Measurement, ...]:
    """The measurements that come with the package."""
    with SHIPPED.open(encoding="utf-8", newline="") as file:
        return tuple(_of_row(row) for row in csv.DictReader(file))


def _of_row(row: dict[str, str]) -> Measurement:
    shape = shape_of(row["shape"])
    assert shape is not None
    figures = (float(row[name] or 0) for name in COLUMNS[4:])
    return Measurement(row["kernel"], "", row["device"], row["date"], shape, *figures)


def of_results(path: Path) -> tuple[Measurement, ...]:
    """The rows of a file of `--avo-json` that tell how a right kernel does beside torch; InvalidInput if it is none."""
    expected = f"{path}: expected a file that --avo-json wrote"
    try:
        document = msgspec.json.decode(path.read_bytes())
        date, results = str(document["datetime"])[:10], document["avo"]["results"]
        return tuple(_of_results(results, date))
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidInput(expected) from None


def _of_results(results: list[dict[str, Any]], date: str) -> Iterator[Measurement]:
    for result in results:
        shape = shape_of(result["shape"])
        ratios = {peer: float(beside["ratio"]) for peer, beside in result["peers"].items()}
        peer = _torch_among(ratios)
        if result["failed"] or shape is None or peer is None or not result["median_us"]:
            continue
        beside = result["peers"][peer]
        figures = float(result["median_us"]), ratios[peer], float(beside["ci95"][0])
        hosts = (0.0, 0.0) if result["target"] == "cpu" else (_number(result, "host_us"), _number(beside, "host_us"))
        yield Measurement(result["kernel"], "", result["device"], date, shape, *figures, *hosts)


def _number(table: dict[str, Any], name: str) -> float:
    return float(table.get(name) or 0)


def _torch_among(ratios: Mapping[str, float]) -> str | None:
    """The peer that stands for torch: itself, else the fastest that it may choose; a ratio is of its time to ours."""
    if TORCH in ratios:
        return TORCH
    return min((peer for peer in TORCH_CHOOSES_FROM if peer in ratios), key=lambda peer: ratios[peer], default=None)


def of_lineage(path: Path) -> tuple[Measurement, ...]:
    """What the runs of a lineage measured beside torch of the kernels that they promoted, and of their seeds."""
    found: list[Measurement] = []
    for run in runs(path):
        with View(path, run.id) as view:
            outcomes = view.outcomes()
            for attempt in view.attempts():
                if attempt.id in outcomes and outcomes[attempt.id].status in ("promoted", "seed"):
                    found += _of_attempt(view, attempt)
    return tuple(found)


def _of_attempt(view: View, attempt: Attempt) -> Iterator[Measurement]:
    """Rows of its confirmation if torch was timed in it, else of its screening."""
    done: set[str] = set()
    for purpose in PURPOSES:
        for stored in view.evaluations(attempt.id, purpose):
            id_ = stored.evaluation.shape
            shape, figures = shape_of(id_), _of_evaluation(stored.evaluation, view.run.target)
            if id_ not in done and shape is not None and figures is not None:
                done.add(id_)
                device = stored.evaluation.device or view.run.fingerprint.device
                yield Measurement(view.run.kernel, attempt.digest, device, attempt.created[:10], shape, *figures)


def _of_evaluation(evaluation: Evaluation, target: str) -> tuple[float, ...] | None:
    """Figures as a row has them; None where the kernel was not right or torch was not timed beside it."""
    timing = evaluation.timing
    if evaluation.outcome != "ok" or timing is None or timing.too_few:
        return None
    found = {name: compare(timing, name) for name in (TORCH, *TORCH_CHOOSES_FROM) if name in timing.seconds}
    peer = _torch_among({name: beside.ratio for name, beside in found.items()})
    if peer is None:
        return None
    beside = found[peer]
    median_us = median(x for launch in timing.seconds[KERNEL] for x in launch) * 1e6
    costs = {} if target == "cpu" else timing.costs
    hosts = (costs[arm].host_s * 1e6 if arm in costs else 0.0 for arm in (KERNEL, peer))
    return median_us, beside.ratio, beside.ci95[0], *hosts
