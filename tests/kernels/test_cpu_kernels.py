"""The CPU kernels against a float64 reference, at the lengths, layouts, scales and tunables where kernels go wrong."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from filelock import FileLock

from pytest_avo.core.kernel import Claim, read_kernel
from pytest_avo.evaluation.correctness.extensions.answer import answer_fault
from pytest_avo.evaluation.correctness.extensions.cases import SequencesCase, all_cases
from pytest_avo.evaluation.correctness.extensions.drawing import draw_any
from tests import ROOT, warm
from tests.evaluation.laboratory import shape
from tests.kernels.measured_folder import builds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pytest_avo.core.shape import Dtype

KERNELS = ["quickstart", "prefill", "decode"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Case:
    """One call of a kernel; sizes in elements."""

    batch: int
    heads_q: int
    heads_kv: int
    seqlen_q: int
    seqlen_kv: int
    head_dim: int
    causal: bool
    dtype: str

    def __str__(self) -> str:
        """Name the case in a test's id."""
        mask = "causal" if self.causal else "full"
        heads = f"h{self.heads_q}kv{self.heads_kv}"
        return f"b{self.batch}-{heads}-q{self.seqlen_q}-k{self.seqlen_kv}-d{self.head_dim}-{mask}-{self.dtype}"


SMOKE = [Case(**table) for table in tomllib.loads((ROOT / "shapes/smoke.toml").read_text())["shape"]]
# Where tiles, splits and groups end: more keys than one split, more query heads than one register tile, odd sizes.
EDGES = [
    Case(1, 7, 1, 1, 1500, 64, causal=True, dtype="f32"),
    Case(2, 12, 2, 3, 1100, 64, causal=True, dtype="bf16"),
    Case(1, 3, 3, 200, 333, 64, causal=True, dtype="f32"),
    Case(1, 4, 2, 300, 65, 64, causal=True, dtype="bf16"),
    Case(1, 2, 1, 1, 1, 64, causal=False, dtype="bf16"),
    Case(1, 6, 2, 97, 129, 40, causal=True, dtype="f32"),
    Case(1, 3, 1, 5, 33, 7, causal=True, dtype="bf16"),
]


@pytest.fixture(scope="module", autouse=True)
def build_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep compiled kernels in a directory of their own, which all modules and workers of xdist share."""
    directory = builds(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(directory))
        yield directory


@pytest.fixture(scope="module")
def kernels(build_directory: Path) -> dict[str, ModuleType]:
    loaded = {name: load(ROOT / f"kernels/cpu/{name}.py") for name in KERNELS}
    for name in ("prefill", "decode"):
        build_in_turn(loaded[name], build_directory)
    return loaded


def build_in_turn(kernel: ModuleType, directory: Path) -> None:
    """Have workers of xdist that need the same library wait for the one that builds it."""
    build = kernel.library

    def library(*asked: object) -> object:
        name = "-".join(map(str, [kernel.__name__, *asked]))
        with FileLock(directory / f"{name}.lock"):
            return build(*asked)

    vars(kernel)["library"] = library


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kernel_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_tunables(name: str, values: dict[str, object], directory: Path) -> ModuleType:
    """Load a copy of a kernel whose tunable assignments are edited, as an evolution edits them."""
    source = (ROOT / f"kernels/cpu/{name}.py").read_text()
    for tunable, value in values.items():
        source, edits = re.subn(rf"^{tunable} = [^ \n]+", f"{tunable} = {value!r}", source, flags=re.MULTILINE)
        assert edits == 1, tunable
    path = directory / f"{name}.py"
    path.write_text(source)
    return load(path)


def sampled(name: str, count: int) -> list[dict[str, object]]:
    """Return combinations of a kernel's tunables, the same ones in every run."""
    tunables = load(ROOT / f"kernels/cpu/{name}.py").TUNABLES
    generator = random.Random(name)
    return [{key: generator.choice(values) for key, values in tunables.items()} for _ in range(count)]


def inputs(case: Case, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw q, k and v in the harness's layout: memory as (batch, seqlen, heads, head_dim)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, seqlen: int) -> torch.Tensor:
        values = torch.randn(case.batch, seqlen, heads, case.head_dim, generator=generator)
        return values.to(DTYPES[case.dtype]).transpose(1, 2)

    return draw(case.heads_q, case.seqlen_q), draw(case.heads_kv, case.seqlen_kv), draw(case.heads_kv, case.seqlen_kv)


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return attention in plain torch, every step in `dtype`; rows that see no key are zero."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.to(dtype), k.to(dtype).repeat_interleave(group, dim=1), v.to(dtype).repeat_interleave(group, dim=1)
    scores = (q * scale) @ k.transpose(-1, -2)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1).masked_fill(~seen, 0)
    else:
        weights = scores.softmax(dim=-1)
    return weights @ v


def check(
    kernel: ModuleType, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> torch.Tensor:
    """Call the kernel and bound its error, per head and 128 rows, by that of the same maths in the input's dtype."""
    before = [t.clone() for t in (q, k, v)]
    out: torch.Tensor = kernel.attention(q, k, v, causal=causal, scale=scale)
    assert (out.shape, out.dtype, out.device) == (q.shape, q.dtype, q.device)
    assert all(torch.equal(now, then) for now, then in zip((q, k, v), before, strict=True))
    assert out.isfinite().all()

    exact = reference(q, k, v, causal=causal, scale=scale, dtype=torch.float64)
    plain = reference(q, k, v, causal=causal, scale=scale, dtype=q.dtype)
    largest = v.double().abs().amax(dim=(-2, -1)).repeat_interleave(q.shape[1] // k.shape[1], dim=1)[..., None, None]
    error, allowed = (out.double() - exact).abs() / largest, (plain.double() - exact).abs() / largest
    eps = torch.finfo(q.dtype).eps
    max_slope, max_eps, rms_slope, rms_eps = (5, 16, 5, 8) if q.dtype is torch.float32 else (2, 2, 1.5, 0.5)
    for e, lp in zip(torch.split(error, 128, dim=2), torch.split(allowed, 128, dim=2), strict=True):
        assert (e.amax(dim=(-2, -1)) <= max_slope * lp.amax(dim=(-2, -1)) + max_eps * eps).all()
        rms, rms_lp = (x.square().mean(dim=(-2, -1)).sqrt() for x in (e, lp))
        assert (rms <= rms_slope * rms_lp + rms_eps * eps).all()
    return out


@pytest.mark.parametrize("case", SMOKE + EDGES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_matches_the_reference(kernels: dict[str, ModuleType], name: str, case: Case) -> None:
    check(kernels[name], *inputs(case), causal=case.causal, scale=case.head_dim**-0.5)


def kernel_of_the_guide() -> str:
    """The source that docs/how-to/write-a-kernel.md begins with."""
    guide = (ROOT / "docs" / "how-to" / "write-a-kernel.md").read_text(encoding="utf-8")
    kernel, *_signatures = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    return str(kernel)


@pytest.mark.parametrize("repeat", [False, True])
def test_the_kernel_of_the_guide_is_right(tmp_path: Path, repeat: bool) -> None:
    path = tmp_path / "my_kernel.py"
    path.write_text(kernel_of_the_guide().replace("REPEAT_HEADS = False", f"REPEAT_HEADS = {repeat}"), encoding="utf-8")
    assert read_kernel(path).claim == Claim("cpu", ("smoke",))
    for case in SMOKE:
        check(load(path), *inputs(case), causal=case.causal, scale=case.head_dim**-0.5)


@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-6])
@pytest.mark.parametrize("case", [SMOKE[3], SMOKE[6], SMOKE[8]], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_uses_the_given_scale(kernels: dict[str, ModuleType], name: str, case: Case, scale: float) -> None:
    check(kernels[name], *inputs(case), causal=case.causal, scale=scale)


@pytest.mark.parametrize("factor", [30, 2.0**40, 2.0**100])
@pytest.mark.parametrize("case", [SMOKE[3], SMOKE[4], SMOKE[6]], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_survives_large_logits_and_shifted_values(
    kernels: dict[str, ModuleType], name: str, case: Case, factor: float
) -> None:
    q, k, v = inputs(case)
    check(kernels[name], q * factor, k, v + 3, causal=case.causal, scale=case.head_dim**-0.5)


@pytest.mark.parametrize("layout", ["contiguous", "padded", "sliced", "expanded"])
@pytest.mark.parametrize("case", [SMOKE[3], SMOKE[6], SMOKE[8], EDGES[4]], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_reads_any_strides(kernels: dict[str, ModuleType], name: str, case: Case, layout: str) -> None:
    def relaid(t: torch.Tensor) -> torch.Tensor:
        nan = torch.nan  # whatever lies between the rows must not be read as if it belonged to them
        if layout == "padded":
            return torch.nn.functional.pad(t, (0, 3), value=nan)[..., : t.shape[-1]]
        if layout == "sliced":
            return torch.nn.functional.pad(t, (0, 0, 2, 1, 1, 1), value=nan)[:, 1:-1, 2:-1]
        return t[:, :1].expand(t.shape) if layout == "expanded" else t.contiguous()

    q, k, v = inputs(case)
    check(kernels[name], relaid(q), relaid(k), relaid(v), causal=case.causal, scale=case.head_dim**-0.5)


@pytest.mark.parametrize("name", KERNELS)
def test_rows_that_see_no_key_are_zero(kernels: dict[str, ModuleType], name: str) -> None:
    case = Case(1, 4, 2, 130, 67, 64, causal=True, dtype="f32")
    out = check(kernels[name], *inputs(case), causal=True, scale=0.125)
    assert out[:, :, :63].eq(0).all()
    assert out[:, :, 63:].ne(0).any(dim=-1).all()


@pytest.mark.parametrize("name", KERNELS)
def test_each_call_reads_its_inputs_anew(kernels: dict[str, ModuleType], name: str) -> None:
    q, k, v = inputs(SMOKE[3])
    first = check(kernels[name], q, k, v, causal=True, scale=0.125).clone()
    v[:, :, 0] += 1
    assert not torch.equal(check(kernels[name], q, k, v, causal=True, scale=0.125), first)


@pytest.mark.parametrize(("name", "dtype"), [("prefill", "bf16"), ("decode", "f32")])
def test_all_that_is_claimed_beside_the_plain_call_is_right(
    kernels: dict[str, ModuleType], name: str, dtype: Dtype
) -> None:
    claim = read_kernel(ROOT / f"kernels/cpu/{name}.py").claim
    claimed = shape(heads=(4, 2), lengths=(100, 130), batch=2, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    for case in all_cases(claimed, claim, random.Random(1), longest=120)[::2]:
        if isinstance(case, SequencesCase) or case.lse:
            asked = draw_any(case, generator)
            options = {**asked.tables, **asked.numbers, **({"return_lse": True} if case.lse else {})}
            function = getattr(kernels[name], asked.function)
            returned = function(*asked.tensors, causal=asked.causal, scale=asked.scale, **options)
            out, lse = returned if case.lse else (returned, None)
            assert answer_fault(asked, out, lse) is None, case


@pytest.mark.parametrize("name", KERNELS)
def test_takes_half_precision(kernels: dict[str, ModuleType], name: str) -> None:
    q, k, v = (t.half() for t in inputs(SMOKE[3]))
    check(kernels[name], q, k, v, causal=True, scale=0.125)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_refuses_a_type_it_does_not_know(kernels: dict[str, ModuleType], name: str) -> None:
    q, k, v = (t.double() for t in inputs(SMOKE[3]))
    with pytest.raises(NotImplementedError, match=r"float32, bfloat16 or float16, got torch\.float64"):
        kernels[name].attention(q, k, v, causal=True, scale=0.125)


@pytest.mark.parametrize("values", sampled("quickstart", 24), ids=lambda v: "-".join(map(str, v.values())))
def test_quickstart_is_right_with_every_tunable(tmp_path: Path, values: dict[str, object]) -> None:
    kernel = with_tunables("quickstart", values, tmp_path)
    for case in (SMOKE[3], SMOKE[5], SMOKE[6], SMOKE[8], EDGES[1]):
        check(kernel, *inputs(case), causal=case.causal, scale=case.head_dim**-0.5)


@pytest.mark.parametrize("values", sampled("prefill", 1), ids=lambda v: "-".join(map(str, v.values())))
def test_prefill_is_right_with_other_tunables(tmp_path: Path, values: dict[str, object]) -> None:
    kernel = with_tunables("prefill", values, tmp_path)
    for case in (SMOKE[3], EDGES[2], EDGES[3]):
        check(kernel, *inputs(case), causal=case.causal, scale=case.head_dim**-0.5)


def test_prefill_is_right_without_tiles(tmp_path: Path) -> None:
    path = tmp_path / "prefill.py"
    source = (ROOT / "kernels/cpu/prefill.py").read_text()
    assert source.count("#define TILES\n") == 1
    path.write_text(source.replace("#define TILES\n", "\n"))
    kernel = load(path)
    for case in (SMOKE[3], EDGES[2], EDGES[3]):
        check(kernel, *inputs(case), causal=case.causal, scale=case.head_dim**-0.5)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_prefill_finds_maxima_that_rise_along_the_keys(kernels: dict[str, ModuleType], dtype: str) -> None:
    q, k, v = inputs(Case(1, 4, 2, 40, 700, 64, causal=True, dtype=dtype))
    rise = torch.arange(k.shape[2])[:, None] / 700
    check(kernels["prefill"], q + 5, (k + 8 * rise).to(k.dtype), v, causal=True, scale=0.5)


def test_prefill_in_single_precision_errs_as_plain_torch_does(kernels: dict[str, ModuleType]) -> None:
    q, k, v = inputs(Case(1, 2, 1, 200, 300, 64, causal=True, dtype="f32"))
    out = kernels["prefill"].attention(q, k, v, causal=True, scale=0.125)
    exact, plain = (
        reference(q, k, v, causal=True, scale=0.125, dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    error, usual = ((x.double() - exact).square().mean().sqrt() for x in (out, plain))
    assert error < 1.5 * usual


def test_prefill_leaves_torch_its_own_products_in_bfloat16(kernels: dict[str, ModuleType]) -> None:
    q, k, v = inputs(SMOKE[6])
    a, b = (torch.randn(64, 64, generator=torch.Generator().manual_seed(n)).bfloat16() for n in range(2))
    before = a @ b
    for _ in range(2):  # tiles are configured anew by whoever uses them
        check(kernels["prefill"], q, k, v, causal=True, scale=0.125)
        assert torch.equal(a @ b, before)


@pytest.mark.parametrize(
    ("values", "cases"),
    list(zip(sampled("decode", 2), ([EDGES[0], EDGES[2]], [EDGES[1]]), strict=True)),
    ids=["f32", "bf16"],
)
def test_decode_is_right_with_other_tunables(tmp_path: Path, values: dict[str, object], cases: list[Case]) -> None:
    kernel = with_tunables("decode", values, tmp_path)
    for case in cases:
        check(kernel, *inputs(case), causal=case.causal, scale=case.head_dim**-0.5)


def build_and_call(path: Path, folder: Path) -> None:
    """What each of two processes does."""
    tempfile.tempdir = str(folder)
    one = torch.ones(1, 1, 1, 64)
    assert load(path).attention(one, one, one, causal=True, scale=1.0).eq(1).all()


SHORT = """
#include <cstring>
extern "C" void attention(const float*, const float*, const float* v, float* out) { std::memcpy(out, v, 4 * HEAD_DIM); }
"""
"""Attention to one key."""


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    source = (ROOT / "kernels/cpu/decode.py").read_text()
    kernel = tmp_path / "decode.py"
    kernel.write_text(re.sub(r'(?s)^SOURCE = r""".*?^"""', f'SOURCE = r"""{SHORT}"""', source, flags=re.MULTILINE))
    directory = tmp_path / "builds"
    directory.mkdir()
    runs = [warm.start(build_and_call, kernel, directory) for _ in range(2)]
    for run in runs:
        run.join(timeout=600)
    assert [run.exitcode for run in runs] == [0, 0]
    (folder,) = directory.iterdir()
    assert [path.suffixes for path in folder.iterdir()] == [[".so"]]


def test_a_folder_that_others_write_to_is_not_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = tmp_path / f"avo-kernels-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("decode", "prefill"):
        folder = load(ROOT / f"kernels/cpu/{name}.py").build_folder()
        assert folder.parent == tmp_path
        assert folder != open_to_all


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_the_default_dtype_does_not_matter(kernels: dict[str, ModuleType], name: str) -> None:
    q, k, v = inputs(EDGES[0])
    expected = kernels[name].attention(q, k, v, causal=True, scale=1.0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = kernels[name].attention(q, k, v, causal=True, scale=1.0)
    finally:
        torch.set_default_dtype(before)
    assert found.equal(expected)
