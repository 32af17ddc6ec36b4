"""`pytest_avo.kernels.attention` against float64: whatever it is given, the answer is right, torch's, or an error."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from pytest_avo.kernels import attention, operators, tensors, use, why
from pytest_avo.kernels.tensors import key_of, obstacle
from tests.kernels.measured_folder import builds, calls, counted, results, used

NEAR = [f"b1-h4kv2-q1-k{n}-d64-full-f32" for n in (1, 8, 64)]
PROMPTS = [f"b1-h4kv2-q{n}-k{n}-d64-{mask}-f32" for n in (2, 16, 64) for mask in ("causal", "full")]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kernels for CPUs, measured on small shapes."""
    folder = tmp_path_factory.mktemp("project")
    sources = {name: counted(name) for name in ("decode", "prefill")}
    with pytest.MonkeyPatch.context() as patch, used(folder, **sources) as own:
        patch.setattr(tempfile, "tempdir", str(builds(tmp_path_factory)))
        rows = {"kernels/decode.py": NEAR, "kernels/prefill.py": PROMPTS}
        (folder / "results.json").write_text(results(rows, ratio=50.0))
        assert use(own, results=[folder / "results.json"]) == 2
        yield own


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None) -> torch.Tensor:
    """In float64, bottom-right causal, zero where a row sees no key."""
    q, k, v = (x.double() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.mT * (max(1, q.shape[-1]) ** -0.5 if scale is None else scale)
    if causal:
        queries, keys = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries), -torch.inf)
    return scores.softmax(dim=-1).nan_to_num(0.0) @ v


def drawn(*sizes: int, layout: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """A tensor (batch, heads, seqlen, head_dim) that lies in memory in some way."""
    batch, heads, seqlen, head_dim = sizes
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    match layout:
        case "as models":
            return values(batch, seqlen, heads, head_dim).transpose(1, 2)
        case "in a longer cache":
            return values(batch, heads, seqlen + 3, head_dim)[:, :, 1 : seqlen + 1]
        case "one for all heads":
            return values(batch, 1, seqlen, head_dim).expand(batch, heads, seqlen, head_dim)
        case "last dimension strided":
            return values(batch, heads, seqlen, 2 * head_dim)[..., ::2]
        case "dimensions swapped":
            return values(batch, heads, head_dim, seqlen).transpose(2, 3)
        case "overlapping":
            return values(batch, heads, seqlen + head_dim).as_strided(
                sizes, (heads * (seqlen + head_dim), seqlen + head_dim, 1, 1)
            )
        case "negated":
            return torch._neg_view(values(batch, heads, seqlen, head_dim))
        case _:
            return values(batch, heads, seqlen, head_dim)


LAYOUTS = (
    "contiguous",
    "as models",
    "in a longer cache",
    "one for all heads",
    "last dimension strided",
    "dimensions swapped",
    "overlapping",
    "negated",
)
CASES = {
    "batch": st.integers(0, 3),
    "heads": st.sampled_from([(4, 2), (2, 2), (4, 1), (3, 2)]),
    "queries": st.sampled_from([0, 1, 1, 1, 2, 5, 17]),
    "keys": st.sampled_from([0, 1, 3, 16, 33]),
    "head_dim": st.sampled_from([64, 64, 64, 24, 0]),
    "dtype": st.sampled_from([torch.float32, torch.float32, torch.float32, *TOLERANCE]),
    "layouts": st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    "causal": st.booleans(),
    "scale": st.sampled_from([None, None, 0.3, 0.0, -0.2]),
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**CASES)
def test_any_call_is_right_or_an_error(
    batch: int,
    heads: tuple[int, int],
    queries: int,
    keys: int,
    head_dim: int,
    dtype: torch.dtype,
    layouts: tuple[str, str, str],
    causal: bool,
    scale: float | None,
) -> None:
    q = drawn(batch, heads[0], queries, head_dim, layout=layouts[0], dtype=dtype)
    k, v = (drawn(batch, heads[1], keys, head_dim, layout=layouts[n], dtype=dtype, seed=n) for n in (1, 2))
    assert (key_of(q, k, v, causal) is None) == bool(obstacle(q, k, v))
    try:
        found = attention(q, k, v, causal=causal, scale=scale)
    except (RuntimeError, ValueError, NotImplementedError):
        assert heads[0] % heads[1] or not head_dim or not keys
        return
    assert heads[0] % heads[1] == 0
    assert found.dtype is dtype
    assert found.shape == q.shape
    torch.testing.assert_close(
        found.double(), reference(q, k, v, causal=causal, scale=scale), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )


def test_the_kernels_are_what_answers(kernels: Path) -> None:
    q, k, v = (drawn(2, heads, n, 64, layout="as models") for heads, n in ((4, 1), (2, 40), (2, 40)))
    before = len(calls(kernels, "decode"))
    attention(q, k, v)
    assert calls(kernels, "decode")[before:] == [((2, 4, 1, 64), (2, 2, 40, 64), {"causal": False, "scale": 0.125})]
    assert why(q, k, v).path == kernels / "decode.py"
    assert "50.00x torch on b1-h4kv2-q1-k64-d64-full-f32" in str(why(q, k, v))
    assert why(k, k, v, causal=True).path == kernels / "prefill.py"


@pytest.mark.parametrize("scale", [0.0, -0.2, float("nan"), float("inf")])
def test_kernels_are_given_positive_scales_alone(kernels: Path, scale: float) -> None:
    q, k, v = (drawn(2, heads, n, 64, layout="as models") for heads, n in ((4, 1), (2, 40), (2, 40)))
    before = len(calls(kernels, "decode"))
    found = attention(q, k, v, scale=scale)
    assert len(calls(kernels, "decode")) == before
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_what_no_kernel_takes_says_why() -> None:
    q, k = torch.randn(1, 4, 1, 64), torch.randn(1, 2, 40, 64)
    half = q.double(), k.double(), k.double()
    reasons = {
        "dtype and a device": (q.half(), k, k),
        "last dimension": (q.mT.contiguous().mT, drawn(1, 2, 40, 64, layout="last dimension strided"), k),
        "side by side": (q, drawn(1, 2, 40, 64, layout="overlapping"), k),
        "one shape": (q, k, k[:, :, :7]),
        "not (batch, heads, seqlen, head_dim)": (q[0], k[0], k[0]),
        "negates": (torch._neg_view(q), k, k),
        "no kernel claims": half,
        "to beat torch beyond doubt near b1-h4kv2-q1-k32-d40-full-f32": (q[..., :40], k[..., :40], k[..., :40]),
        "dense": (q.to_sparse(), k, k),
    }
    for reason, call in reasons.items():
        assert why(*call).path is None
        assert reason in str(why(*call))


def test_tensors_that_reach_beyond_32_bits_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = torch.randn(1, 4, 1, 64), torch.randn(1, 2, 40, 64)
    assert why(q, k, k).path is not None
    monkeypatch.setattr(tensors, "MOST_ELEMENTS", k.numel())
    assert "reach over" in str(why(q, k, k))


def test_arguments_that_fit_no_attention_get_an_error() -> None:
    q, k = torch.randn(1, 4, 2, 64), torch.randn(1, 2, 5, 64)
    bad = [
        (q, k.half(), k.half()),
        (q, k.to("meta"), k.to("meta")),
        (q, torch.randn(1, 3, 5, 64), torch.randn(1, 3, 5, 64)),
        (q, k, k[:, :, :3]),
        (q, k[..., :32], k),
        (q[0, 0], k[0, 0], k[0, 0]),
        (q.int(), k.int(), k.int()),
    ]
    for call, causal in itertools.product(bad, (False, True)):
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            attention(*call, causal=causal)


def test_arguments_of_other_types_are_numbers_or_named() -> None:
    q, k, v = (drawn(1, heads, n, 64, layout="as models") for heads, n in ((4, 1), (2, 40), (2, 40)))
    expected = attention(q, k, v, causal=True, scale=0.5)
    for scale, causal in ((torch.tensor(0.5), 1), (np.float32(0.5), np.True_), (0.5, torch.tensor(True)), (0.5, [0])):
        assert attention(q, k, v, causal=causal, scale=scale).equal(expected)  # type: ignore[arg-type]
    for name, call in {"q": (q.numpy(), k, v), "v": (q, k, None), "scale": (q, k, v)}.items():
        with pytest.raises(TypeError, match=f"^{name}: expected a (tensor|number), got (ndarray|NoneType|complex|str)"):
            attention(*call, scale=1j if name == "scale" else None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit")
def test_a_trace_holds_torch_s_own_attention() -> None:
    q, k, v = (drawn(1, heads, n, 64, layout="as models") for heads, n in ((4, 1), (2, 40), (2, 40)))
    traced: Any = torch.jit.trace(attention, (q, k, v))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(q + 1, k, v), attention(q + 1, k, v))


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:.torch.jit.script. is deprecated")
def test_transforms_and_modes_see_through_to_torch() -> None:
    q, k, v = (drawn(2, heads, 6, 64, layout="contiguous", seed=heads) for heads in (4, 2, 3))
    v = v[:, :2]
    expected = reference(q, k, v, causal=True, scale=None)
    mapped = torch.func.vmap(lambda *x: attention(*(each[None] for each in x), causal=True)[0])(q, k, v)
    torch.testing.assert_close(mapped.double(), expected, atol=2e-5, rtol=2e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(q, k, v, causal=True).dtype is torch.bfloat16
    forward: Any = forward_ad
    with forward.dual_level():
        dual = forward.make_dual(q, torch.ones_like(q))
        with pytest.raises(NotImplementedError, match="forward AD"):  # torch's own: it has no such formula on a CPU
            attention(dual, k, v, causal=True)
    parameters = [torch.nn.Parameter(x) for x in (q, k, v)]
    with torch.no_grad():
        torch.testing.assert_close(attention(*parameters, causal=True).double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_torch_s_and_never_under_another_mask() -> None:
    q, k = (nested(lengths) for lengths in ((3, 5), (4, 6)))
    for ours, one, other in zip(attention(q, k, k).unbind(), q.unbind(), k.unbind(), strict=True):
        expected = reference(one[None], other[None], other[None], causal=False, scale=None)
        torch.testing.assert_close(ours[None].double(), expected, atol=2e-5, rtol=2e-5)
    with pytest.raises(NotImplementedError, match="top-left"):
        attention(q, k, k, causal=True)


def nested(lengths: tuple[int, ...]) -> torch.Tensor:
    """Sequences of these lengths, 4 heads, in one jagged tensor."""
    return torch.nested.nested_tensor([torch.randn(n, 4, 64) for n in lengths], layout=torch.jagged).transpose(1, 2)


@pytest.mark.parametrize(
    ("sizes", "causal", "compiled"),
    [
        ((4, 2, 7, 7), True, False),
        ((4, 2, 7, 7), True, True),
        ((4, 2, 7, 7), False, False),
        ((4, 4, 1, 9), False, False),
        ((4, 1, 5, 9), True, False),
        ((4, 1, 5, 9), True, True),
        ((4, 1, 9, 5), True, False),
    ],
)
def test_gradients_are_those_of_float64(sizes: tuple[int, int, int, int], causal: bool, compiled: bool) -> None:
    heads_q, heads_kv, queries, keys = sizes
    pairs = ((heads_q, queries), (heads_kv, keys), (heads_kv, keys))
    made = [drawn(2, heads, n, 64, layout="as models", seed=heads + n) for heads, n in pairs]
    ours = [x.clone().requires_grad_() for x in made]
    theirs = [x.double().requires_grad_() for x in made]
    weights = torch.randn(2, heads_q, queries, 64)

    def run(*x: torch.Tensor) -> Any:
        return attention(x[0], x[1], x[2], causal=causal)

    (torch.compile(run, fullgraph=True, backend="aot_eager") if compiled else run)(*ours).backward(weights)
    expected: Any = reference(*theirs, causal=causal, scale=None)
    expected.backward(weights.double())
    for found, exact in zip(ours, theirs, strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad.double(), exact.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["last dimension strided", "dimensions swapped", "overlapping"])
def test_the_operator_s_gradients_are_right_however_its_tensors_lie(layout: str) -> None:
    made = [drawn(2, 2, 9, 64, layout=layout, seed=n) for n in range(3)]
    ours, theirs = [x.detach().requires_grad_() for x in made], [x.double().requires_grad_() for x in made]
    found = operators.attention_with_lse(ours[0], ours[1], ours[2], False, 0.125)[0]
    expected: Any = reference(theirs[0], theirs[1], theirs[2], causal=False, scale=None)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)
    weights = drawn(2, 2, 9, 64, layout=layout, seed=3)
    found.backward(weights)
    expected.backward(weights.double())
    for mine, exact in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double(), exact.grad, atol=1e-4, rtol=1e-4)


def test_a_whole_graph_takes_the_operator_and_the_kernel_with_it(kernels: Path) -> None:
    run = torch.compile(
        lambda q, k, v: attention(q + 1, k, v, causal=True) * 2, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for keys in (12, 30, 45):
        q, k, v = (drawn(1, h, n, 64, layout="as models", seed=h) for h, n in ((4, 1), (2, keys), (2, keys)))
        before = len(calls(kernels, "decode"))
        found = run(q, k, v) / 2
        assert len(calls(kernels, "decode")) == before + 1
        expected = reference(q + 1, k, v, causal=True, scale=None)
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)


def test_a_compiled_transform_is_torch_s() -> None:
    q, k, v = (drawn(1, h, 6, 64, layout="as models", seed=h) for h in (4, 2, 3))
    v = v[:, :2]

    def gradient(q: torch.Tensor) -> Any:
        return torch.func.grad(lambda x: attention(x, k, v, causal=True).square().sum())(q)

    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q), gradient(q), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("operator", [operators.attention_alone, operators.attention_with_lse])
def test_torch_finds_nothing_wrong_with_the_operators(operator: Any) -> None:
    q, k, v = (drawn(1, h, 9, 64, layout="contiguous", seed=h) for h in (4, 2, 2))
    torch.library.opcheck(operator, (q, k, v, True, 0.125), test_utils=("test_schema", "test_faketensor"))
