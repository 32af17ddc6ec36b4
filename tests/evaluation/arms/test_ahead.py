"""What a kernel launches is in its private folder before a device is needed, whatever its code does meanwhile."""

from __future__ import annotations

import select
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pytest_avo.core.evaluation import Subject
from pytest_avo.core.shape import Shape
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.arms.ahead import Ahead, Scope, _calls
from pytest_avo.evaluation.arms.spawner import Spawner
from pytest_avo.evaluation.linux import processes
from pytest_avo.evaluation.linux.removal import remove_tree

SHAPE = Shape(batch=1, heads_q=2, heads_kv=2, seqlen_q=64, seqlen_kv=64, head_dim=64, causal=False, dtype="bf16")
COPIES = """
import torch, triton
import triton.language as tl

AVO = {"target": "sm90", "shapes": ["smoke"]}

@triton.jit
def copied(x, out, CAUSAL: tl.constexpr):
    at = tl.arange(0, 64)
    tl.store(out + at, tl.load(x + at) + CAUSAL)

def attention(q, k, v, *, causal, scale):
    out = torch.empty_like(q)
    copied[(1,)](q, out, causal)
    return out
"""

PACKED = """
@triton.jit
def packed(x, out, starts):
    at = tl.arange(0, 64)
    tl.store(out + at, tl.load(x + at) + tl.load(starts))

def attention_varlen(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale):
    out = torch.empty_like(q)
    packed[(max_seqlen_q,)](q, out, cu_seqlens_q)
    return out
"""


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    box = Path(tempfile.mkdtemp())
    spawner = Spawner(box=box, environment={}, warm=["torch", "triton"])
    spawner.start(layers=True)
    spawner.wait()
    yield spawner
    spawner.kill()
    remove_tree(box)


def ahead(spawner: Spawner) -> Ahead:
    return Ahead(spawner, target="sm90", multiprocessors=132, jobs=2, memory_bytes=4 << 30)


def compiled(spawner: Spawner, subject: Subject) -> list[Path]:
    return sorted((spawner.box / "kernels" / text_digest(subject.source)).glob("triton/*/copied.cubin"))


def test_a_kernel_is_compiled_for_what_it_is_asked_and_once(spawner: Spawner) -> None:
    subject, compiler = Subject("copies", COPIES), ahead(spawner)
    compiler.begin(subject, [SHAPE], claim_alone=True)
    compiler.finish(subject, [SHAPE], claim_alone=True, limit_s=120.0)
    assert len(compiled(spawner, subject)) == 1
    compiler.begin(subject, [SHAPE], claim_alone=True)  # known: what is begun here would be waited for below
    compiler.finish(subject, [SHAPE], claim_alone=False, limit_s=120.0)
    found = compiled(spawner, subject)
    assert len(found) == 2  # the battery beside a full shape has causal calls
    written = [path.stat().st_mtime_ns for path in found]
    compiler.finish(subject, [SHAPE], claim_alone=False, limit_s=120.0)
    assert [path.stat().st_mtime_ns for path in compiled(spawner, subject)] == written
    spawner.settle()


def test_of_a_screenings_larger_shapes_the_plain_call_alone_is_compiled_until_more_is_asked(spawner: Spawner) -> None:
    source = COPIES.replace('"shapes"', '"lse": True, "shapes"').replace("scale):", "scale, return_lse=False):")
    source = source.replace("(q, out, causal)", "(q, out, q.shape[2] + return_lse)").replace(
        "return out", "return (out, out) if return_lse else out"
    )
    subject, compiler, larger = Subject("with lse", source), ahead(spawner), msgspec.structs.replace(SHAPE, seqlen_q=96)
    for shapes, brief, builds in (
        ([larger, SHAPE], True, 2),
        ([larger, SHAPE], False, 3),
        ([larger, SHAPE], False, 3),
        ([larger, SHAPE], True, 3),
        ([larger], False, 4),
    ):
        compiler.finish(subject, shapes, claim_alone=True, brief=brief, limit_s=120.0)
        assert len(compiled(spawner, subject)) == builds
    spawner.settle()


def test_a_compiler_that_is_done_is_ended_though_nobody_waits_for_it(spawner: Spawner) -> None:
    first, second, compiler = Subject("first", f"{COPIES}# 1"), Subject("second", f"{COPIES}# 2"), ahead(spawner)
    compiler.begin(first, [SHAPE], claim_alone=True)
    [running] = compiler._running.values()
    select.select([running.link], [], [], 120.0)
    compiler.begin(second, [SHAPE], claim_alone=True)
    spawner.settle()
    assert not processes.is_running(running.pid)
    assert len(compiled(spawner, first)) == 1
    assert compiler.finish(first, [SHAPE], claim_alone=True, limit_s=120.0) < 1.0
    compiler.finish(second, [SHAPE], claim_alone=True, limit_s=120.0)
    spawner.settle()


def test_optional_functions_are_compiled_too_with_their_tables_and_numbers(spawner: Spawner) -> None:
    source = COPIES.replace('"shapes"', '"varlen": True, "shapes"') + PACKED
    subject, compiler = Subject("more", source), ahead(spawner)
    compiler.finish(subject, [SHAPE], claim_alone=False, limit_s=120.0)
    folder = spawner.box / "kernels" / text_digest(subject.source)
    assert {path.stem for path in folder.glob("triton/*/*.cubin")} == {"copied", "packed"}
    spawner.settle()


@pytest.mark.parametrize(
    "source",
    ["import os\nos._exit(3)", "import time\ntime.sleep(60)", "raise ValueError", "this is no Python", COPIES[:200]],
    ids=["exits", "hangs", "raises", "unreadable", "half"],
)
def test_a_kernel_that_cannot_be_compiled_holds_nobody_up(spawner: Spawner, source: str) -> None:
    subject, compiler = Subject("bad", source), ahead(spawner)
    assert compiler.finish(subject, [SHAPE], claim_alone=False, limit_s=1.0) < 10
    spawner.settle()
    assert spawner.is_alive


def test_a_kernel_that_hangs_takes_no_time_from_who_begins_it_however_much_is_asked(spawner: Spawner) -> None:
    shapes = [msgspec.structs.replace(SHAPE, seqlen_q=64 + n) for n in range(100)]
    subject, compiler = Subject("hangs", f"{COPIES}import time\ntime.sleep(60)"), ahead(spawner)
    start = time.monotonic()
    compiler.begin(subject, shapes, claim_alone=True)
    assert time.monotonic() - start < 20.0
    compiler.finish(subject, shapes, claim_alone=True, limit_s=0.1)
    spawner.settle()


def test_what_is_unlike_all_before_it_is_compiled_first() -> None:
    larger = msgspec.structs.replace(SHAPE, seqlen_q=96, seqlen_kv=96)
    shapes = [SHAPE, larger, *(msgspec.structs.replace(shape, causal=True) for shape in (SHAPE, larger))]
    asked: dict[str, Scope] = {shape.id: "plain call" for shape in shapes}
    calls = _calls(Subject("copies", COPIES), shapes, asked)
    assert [call["causal"] for call in calls[:2]] == [False, True]
    assert sorted(call["causal"] for call in calls[2:]) == [False] * (len(calls) // 2 - 1) + [True] * (
        len(calls) // 2 - 1
    )
