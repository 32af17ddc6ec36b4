"""--avo-json: results in pytest-benchmark's schema, so that its readers work, and everything else under `avo`."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pytest_avo.core.disk.repository import commit_info
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.verdict import Total
from pytest_avo.report.files.samples import sample_stats
from pytest_avo.report.rows import ResultRow, comparisons, geomeans, is_timed

SCHEMA = "5.3.1"
"""The release of pytest-benchmark whose schema the file follows."""


def export(
    rows: Sequence[ResultRow],
    totals: Sequence[Total] = (),
    *,
    fingerprint: Fingerprint | None,
    rootdir: Path,
    evolution: Mapping[str, Any] | None = None,
) -> str:
    """The text of the file; `rootdir` is where git is asked for the commit."""
    content = document(rows, totals, fingerprint=fingerprint, rootdir=rootdir, evolution=evolution)
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def document(
    rows: Sequence[ResultRow],
    totals: Sequence[Total] = (),
    *,
    fingerprint: Fingerprint | None,
    rootdir: Path,
    evolution: Mapping[str, Any] | None = None,
) -> dict[str, object]:
    """The content of the file: plain values, every number finite (what is not becomes null)."""
    content = {
        "machine_info": machine_info(),
        "commit_info": commit_info(rootdir),
        "benchmarks": [_benchmark(row) for row in rows if is_timed(row)],
        "datetime": datetime.now(UTC).isoformat(),
        "version": SCHEMA,
        "avo": {
            "results": [_result(row) for row in rows],
            "totals": [msgspec.structs.asdict(total) for total in totals],
            "geomean": {peer: {"ratio": x.ratio, "ci95": list(x.ci95)} for peer, x in geomeans(rows).items()},
            "fingerprint": None if fingerprint is None else msgspec.structs.asdict(fingerprint),
            **({} if evolution is None else {"evolution": evolution}),
            "notes": list(dict.fromkeys(note for row in rows for note in row.verdict.notes)),
        },
    }
    return {key: _finite(value) for key, value in content.items()}


def machine_info() -> dict[str, object]:
    """The machine and the interpreter that this process runs on."""
    return {
        "node": platform.node(),
        "processor": platform.processor(),
        "machine": platform.machine(),
        "python_compiler": platform.python_compiler(),
        "python_implementation": platform.python_implementation(),
        "python_implementation_version": platform.python_version(),
        "python_version": platform.python_version(),
        "python_build": list(platform.python_build()),
        "release": platform.release(),
        "system": platform.system(),
        "cpu": {"arch": platform.machine(), "count": os.cpu_count()},
    }


def _benchmark(row: ResultRow) -> dict[str, object]:
    """One entry of `benchmarks`; the group is the shape, since only kernels on the same shape compare."""
    verdict = row.verdict
    return {
        "group": row.shape.id,
        "name": f"{Path(row.kernel).stem}[{row.shape.id}]",
        "fullname": row.node_id,
        "params": {"shape": row.shape.id},
        "param": row.shape.id,
        "extra_info": {
            "target": row.target,
            "device": row.device,
            "verdict": verdict.kind,
            "tflops": verdict.tflops,
            "gbps": verdict.gbps,
            "seed": row.seed,
        },
        "options": {},
        "stats": sample_stats(row.samples_s, iterations=row.calls),
    }


def _result(row: ResultRow) -> dict[str, object]:
    verdict = row.verdict
    return {
        "kernel": row.kernel,
        "shape": row.shape.id,
        "target": row.target,
        "device": row.device,
        "verdict": verdict.kind,
        "reason": verdict.reason,
        "failed": row.failed,
        "median_us": verdict.median_us,
        "host_us": verdict.host_us,
        "idle_us": verdict.idle_us,
        "harness_us": None if row.timing is None else row.timing.harness_s * 1e6,
        "spins": None if row.timing is None else row.timing.spins,
        "tflops": verdict.tflops,
        "gbps": verdict.gbps,
        "roofline_fraction": row.roofline_fraction,
        "conditions": None if row.timing is None else msgspec.to_builtins(row.timing.conditions),
        "peers": {
            name: {
                "median_us": beside.median_us,
                "host_us": beside.host_us,
                "idle_us": beside.idle_us,
                "ratio": beside.ratio,
                "ci95": list(beside.ci95),
                "kinds": {kind: {"ratio": x.ratio, "ci95": list(x.ci95)} for kind, x in beside.kinds.items()},
            }
            for name, beside in comparisons(row).items()
        },
    }


def _finite(value: object) -> object:
    """The value with every number that JSON cannot hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
