"""Facts of this machine."""

from __future__ import annotations

from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.diagnosis.machine import machine_facts


def test_what_an_engineer_asks_first() -> None:
    facts = dict(
        line.split(": ", 1) for line in machine_facts(CpuDevice(), rates={"f32": 1e11, "bytes": 2e10}).splitlines()
    )
    assert {"CPU", "instruction sets", "memory", "load", "libraries", "programs"} <= facts.keys()
    assert "torch " in facts["libraries"]
    (measured,) = (text for name, text in facts.items() if name.startswith("measured"))
    assert measured == "f32 100 GFLOP/s, bytes 20 GB/s"
