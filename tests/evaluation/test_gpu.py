"""Kernels on a real NVIDIA GPU: right ones are timed, broken ones get their verdict, and the card is free after.

The broken ones are written in Gluon: a store out of bounds, a wait for a barrier that nobody arrives at, and a trap.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, EvaluationRequest, Limits, Subject, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import compare
from pytest_avo.evaluation.devices.gpus import gpus
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evaluation.judge.peers import PEERS, TORCH_SDPA
from pytest_avo.evaluation.pool.pool import Pool
from tests.evaluation.laboratory import shape

pytestmark = pytest.mark.gpu

SMALL = shape(batch=2, heads=(8, 4), lengths=(512, 512), head_dim=128, causal=False, dtype="bf16")
LARGE = shape(batch=4, heads=(16, 16), lengths=(2048, 2048), head_dim=128, dtype="bf16")
LIMITS = Limits(build=20, check=20, time=20)
SHORT_LIMITS = Limits(build=8, check=8, time=8)
BROKEN = (
    TORCH_SDPA.replace("def attention", "def honest")
    + """
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier


@gluon.jit
def broken(pointer):
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    BODY


def attention(q, k, v, *, causal, scale):
    out = honest(q, k, v, causal=causal, scale=scale)
    broken[(1,)](out)
    return out
"""
)
BODIES = {
    "out of bounds": "gl.store(pointer + gl.arange(0, 128, layout=layout).to(gl.int64) * 274877906944, 1.0)",
    "deadlock": (
        "bar = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())\n"
        "    mbarrier.init(bar, count=1)\n    mbarrier.wait(bar, 0)"
    ),
    "trap": (
        'x = gl.arange(0, 128, layout=layout)\n    gl.inline_asm_elementwise("trap; mov.b32 $0, $1;", "=r,r", [x], '
        "dtype=gl.int32, is_pure=False, pack=1)"
    ),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    found = Pool(["popen"], kind=deal(0).fingerprint())
    yield found
    found.close()


def evaluate(
    pool: Pool,
    source: str,
    *shapes: Shape,
    plan: TimingPlan | None = None,
    baseline: str = "",
    peers: tuple[str, ...] = (),
    limits: Limits = LIMITS,
) -> list[Evaluation]:
    request = EvaluationRequest(
        number=0,
        subject=Subject(label="kernel", source=source),
        shapes=shapes,
        limits=limits,
        plan=plan,
        baseline=Subject(label="baseline", source=baseline) if baseline else None,
        peers=peers,
    )
    return [future.result(timeout=300) for future in pool.submit(request).values()]


def used_mib() -> int:
    """Of the GPU that these tests run on: whoever works on the machine's others is none of theirs."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={gpus()[0].uuid}"]
    return int(subprocess.check_output(command, text=True))


def test_no_memory_is_left_when_a_pool_is_closed() -> None:
    """The first of these tests: the pool of all others keeps memory as it likes."""
    before = used_mib()
    pool = Pool(["popen"], kind=deal(0).fingerprint())
    (found,) = evaluate(pool, TORCH_SDPA, SMALL)
    during = used_mib()
    pool.close()
    assert found.outcome == "ok", found.reason
    assert during > before + 500
    assert used_mib() <= before + 50


def test_a_right_kernel_is_timed_beside_itself_and_its_peers(pool: Pool) -> None:
    plan = TimingPlan(min_rounds=8, max_rounds=8)
    for found in evaluate(
        pool, PEERS["cudnn"], LARGE, SMALL, plan=plan, baseline=PEERS["cudnn"], peers=("fa2", "torch-sdpa")
    ):
        assert found.outcome == "ok", found.reason
        assert found.timing is not None
        assert set(found.timing.seconds) == {KERNEL, BASELINE, "fa2", "torch-sdpa"}
        assert 0.9 < compare(found.timing, BASELINE).ratio < 1.1
        assert not any("not captured" in note for note in found.notes)


def test_a_sleep_on_the_gpu_is_seen_by_the_judges_clock(pool: Pool) -> None:
    """Half a millisecond of spinning in every call, on a stream that the caller's waits for."""
    slowed = PEERS["cudnn"].replace("    with sdpa_kernel", "    torch.cuda._sleep(900_000)\n    with sdpa_kernel")
    (found,) = evaluate(
        pool, "import torch\n" + slowed, LARGE, plan=TimingPlan(min_rounds=8, max_rounds=8), baseline=PEERS["cudnn"]
    )
    assert found.timing is not None
    beside = compare(found.timing, BASELINE)
    (kernel_s,) = (launch[0] for launch in found.timing.seconds[KERNEL])
    assert 0.3e-3 < kernel_s - beside.median_us * 1e-6 < 0.8e-3


@pytest.mark.parametrize(
    ("name", "outcome"), [("out of bounds", "crashed"), ("deadlock", "timeout"), ("trap", "crashed")]
)
def test_a_broken_kernel_leaves_the_gpu_usable(pool: Pool, name: str, outcome: str) -> None:
    (found,) = evaluate(pool, BROKEN.replace("BODY", BODIES[name]), SMALL, limits=SHORT_LIMITS)
    assert found.outcome == outcome, found.reason
    (found,) = evaluate(pool, TORCH_SDPA, SMALL)
    assert found.outcome == "ok", found.reason


def test_a_shape_that_does_not_fit_is_skipped_with_its_size(pool: Pool) -> None:
    huge = shape(batch=64, heads=(64, 64), lengths=(16384, 16384), head_dim=128, dtype="bf16")
    (found,) = evaluate(pool, TORCH_SDPA, huge)
    assert found.unfit
    assert "GiB for arguments" in found.reason
