"""A folder of kernels as a user has it, with what was measured of them, small enough to be reached by tests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pytest_avo.kernels import dispatch, registry, use
from pytest_avo.kernels.tensors import place
from tests import ROOT

COUNTED = """

CALLS = []
_uncounted = attention


def attention(q, k, v, **given):
    CALLS.append((tuple(q.shape), tuple(k.shape), given))
    return _uncounted(q, k, v, **given)


if "attention_paged" in globals():
    _uncounted_paged = attention_paged


    def attention_paged(q, k_cache, v_cache, **given):
        CALLS.append((tuple(q.shape), tuple(k_cache.shape), given))
        return _uncounted_paged(q, k_cache, v_cache, **given)
"""
"""Appended to a kernel: what it was called with."""


def results(rows: dict[str, list[str]], *, ratio: float = 2.0, device: str = "") -> str:
    """The file that --avo-json would write of kernels -> ids of shapes, all right and so much faster than torch."""
    device = device or place(torch.device("cpu"))[1]
    peer = {"median_us": 10.0 * ratio, "ratio": ratio, "ci95": [ratio * 0.9, ratio * 1.1]}
    always = {"device": device, "target": "cpu", "failed": False, "median_us": 10.0, "peers": {"torch-sdpa": peer}}
    found = [{"kernel": kernel, "shape": shape, **always} for kernel, shapes in rows.items() for shape in shapes]
    return json.dumps({"datetime": "2026-11-28T00:00:00", "avo": {"results": found}})


def builds(factory: pytest.TempPathFactory) -> Path:
    """A temporary directory for what kernels compile, one for all modules and processes of a run."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "builds-of-kernels"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def used(folder: Path, **sources: str) -> Iterator[Path]:
    """Use a project's folder kernels/ of these sources, on one thread, which is the fastest for such small calls."""
    place_of_kernels = folder / "kernels"
    place_of_kernels.mkdir()
    for name, source in sources.items():
        (place_of_kernels / f"{name}.py").write_text(source)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with forgotten():
            yield place_of_kernels
    finally:
        torch.set_num_threads(threads)


@contextmanager
def forgotten() -> Iterator[None]:
    """Afterwards the registry and all choices are as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_named", {})
        patch.setattr(dispatch, "_takers", {})
        patch.setattr(dispatch, "_refusals", {})
        yield


def counted(name: str) -> str:
    """The source of a kernel that ships, which keeps its calls."""
    return (ROOT / f"kernels/cpu/{name}.py").read_text() + COUNTED


def calls(folder: Path, name: str) -> list[tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]]:
    """What a counted kernel was called with, empty where its file was not even executed."""
    winner = next(winner for winner in registry._named[folder.resolve()] if winner.path.stem == name)
    found: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]] = winner.load().CALLS
    return found


__all__ = ["builds", "calls", "counted", "forgotten", "results", "use", "used"]
