"""The reference: attention by its definition, in float64, and the same in the inputs' own precision.

The second is what an honest plain torch computation reaches, the yardstick of the error that is allowed
(FlashAttention's own tests measure against the same two computations).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pytest_avo.evaluation.correctness.inputs import Inputs

SCORES_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Elements of the score matrix held at a time (16 MiB in float64 on a CPU, about its cache), by kind of device."""
KEYS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 30}
"""Elements of keys, and of values, that are converted at a time: of few queries, which have few scores, that is what
takes long, several times as long where it is more than a cache and an allocator keep."""
LARGEST_EXPONENT = {torch.float64: 300.0, torch.float32: 80.0}
"""Of e: exponentials of no larger scores, positive or negative, and sums of them keep all digits of a precision."""
ROUNDED = 0.03
"""In units of the inputs' eps, how far float32 may round the largest scores where it stands for float64: weights are
then off by so little of what half precision rounds them by."""
TRUNCATED = 24.0
"""Times as much as float32 rounds a score, tensor cores cut off: on an H200 3e-6 of one that grows in every step."""
ALIGNED = 8
"""Columns of ones behind the values, of which one is needed: tensor cores take rows of multiples of 16 bytes."""
CAUSAL_ROWS = 1024
"""Query rows at a time of a causal call: the fewer, the more keys that none of them sees are left out."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some batch entries, key/value heads and query rows of a call."""

    batches: slice
    heads_kv: slice
    rows: slice

    def queries(self, x: torch.Tensor, group: int) -> torch.Tensor:
        """Its queries, x (batch, heads_q, seqlen_q, head_dim), as (batches, heads_kv, group, rows, head_dim)."""
        heads = slice(self.heads_kv.start * group, self.heads_kv.stop * group)
        found = x[self.batches, heads, self.rows]
        return found.reshape(len(found), -1, group, *found.shape[2:])

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """Keys or values of this part, as (batches, heads_kv, seqlen_kv, head_dim)."""
        return x[self.batches, self.heads_kv]


def parts(inputs: Inputs) -> Iterator[Part]:
    """A whole call in parts with all rows of whole heads, of about as many scores as are held at a time."""
    batch, heads_q, seqlen_q, _ = inputs.q.shape
    heads_kv, seqlen_kv = inputs.k.shape[1:3]
    rows = min(seqlen_q, CAUSAL_ROWS) if inputs.causal else seqlen_q  # at a time
    place, scores = inputs.q.device.type, heads_q // heads_kv * rows * seqlen_kv
    at_once = max(1, min(SCORES_AT_ONCE[place] // scores, KEYS_AT_ONCE[place] // inputs.k[0, 0].numel()))
    heads = min(heads_kv, at_once)
    batches = max(1, at_once // heads_kv)
    for b in range(0, batch, batches):
        for h in range(0, heads_kv, heads):
            yield Part(slice(b, min(b + batches, batch)), slice(h, min(h + heads, heads_kv)), slice(0, seqlen_q))


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, first_row: int, seqlen_q: int
) -> torch.Tensor:
    """Attention in the dtype of its arguments: q (batches, heads_kv, group, rows, head_dim), k and v as `Part.keys`.

    The rows are those from `first_row` of `seqlen_q` queries; the causal mask is aligned bottom-right.
    Returns the shape of q; a row that sees no key is zero.
    """
    return weigh(weights(q, k, causal=causal, scale=scale, first_row=first_row, seqlen_q=seqlen_q), v)


def weights(
    q: torch.Tensor, k: torch.Tensor, *, causal: bool, scale: float, first_row: int, seqlen_q: int
) -> torch.Tensor:
    """The softmax of the scores, (batches, heads_kv, group, rows, seqlen_kv); zero in a row that sees no key."""
    scores = weigh(q * scale, k.transpose(-1, -2))
    if not causal:
        return torch.softmax(scores, dim=-1)
    _hide(scores, first_row=first_row + k.shape[-2] - seqlen_q)
    found = torch.softmax(scores, dim=-1)
    return torch.nan_to_num(found) if first_row + k.shape[-2] < seqlen_q else found


def weigh(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The product of x (batches, heads_kv, group, rows, n) with the y (batches, heads_kv, n, m) of its head.

    Half precision on a CPU is summed in single precision and rounded once at the end. So does torch's own product, but
    twenty times as slowly on processors whose instructions for it torch does not use.
    """
    folded = x.flatten(2, 3)
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16):
        found = (folded.float() @ y.float()).to(x.dtype)
    else:
        found = folded @ y
    return found.view(*x.shape[:-1], y.shape[-1])


def computed(inputs: Inputs, part: Part, dtype: torch.dtype) -> torch.Tensor:
    """Attention of a part in a dtype, (batches, heads_kv, group, rows, head_dim); some rows at a time."""
    if dtype == torch.float64 and inputs.q.device.type == "cuda":
        return exact(inputs, part).out
    k, v = part.keys(inputs.k).to(dtype), part.keys(inputs.v).to(dtype)
    found = []
    for first_row, some, seen in _chunks(inputs, part):
        found.append(
            attention(
                some.to(dtype),
                k[:, :, :seen],
                v[:, :, :seen],
                causal=inputs.causal,
                scale=inputs.scale,
                first_row=first_row,
                seqlen_q=inputs.q.shape[2] - (k.shape[2] - seen),
            )
        )
    return torch.cat(found, dim=3)


@dataclass(frozen=True, slots=True)
class Exact:
    """A part's outputs as `computed` gives them, in float64 or float32, and the log-sum-exp of the scores of every row.

    (batches, heads_kv, group, rows), -inf where a row sees no key.
    """

    out: torch.Tensor
    lse: torch.Tensor


def exact(inputs: Inputs, part: Part) -> Exact:
    """A part in float64, by the definition of attention, in few passes over the scores.

    On a GPU passes are what takes the time, since they read or write eight bytes of every score; on a CPU these lie in
    its cache. The largest score of a row is subtracted only where scores are so large that exponentials would not do.
    """
    k, v = part.keys(inputs.k).double(), part.keys(inputs.v).double()
    longest: torch.Tensor | None = None
    outs, sums = [], []
    for first_row, some, seen in _chunks(inputs, part):
        q = some.double() * inputs.scale
        are_small = False
        if q.shape[2] * q.shape[3] > q.shape[4]:  # where queries are few, scores are fewer than what bounds them
            longest = k.norm(dim=-1).amax() if longest is None else longest
            are_small = float(q.norm(dim=-1).amax() * longest) <= LARGEST_EXPONENT[torch.float64]
        scores = weigh(q, k[:, :, :seen].transpose(-1, -2))
        if inputs.causal:
            _hide(scores, first_row=first_row + inputs.k.shape[2] - inputs.q.shape[2])
        top = scores.new_zeros(()) if are_small else _subtract_top(scores)
        total = scores.exp_().sum(-1, keepdim=True)
        outs.append(weigh(scores, v[:, :, :seen]).div_(total.clamp_min(torch.finfo(torch.float64).tiny)))
        sums.append((total.log() + top)[..., 0])
    return Exact(torch.cat(outs, dim=3), torch.cat(sums, dim=3))


def _subtract_top(scores: torch.Tensor) -> torch.Tensor:
    """Subtract every row's largest score, in place, and return it; 0 where a row sees no key."""
    top = scores.amax(-1, keepdim=True).nan_to_num_(neginf=0.0)
    scores.sub_(top)
    return top


def nearly_exact(inputs: Inputs, part: Part, *, with_lse: bool = True) -> Exact | None:
    """A part with errors of some hundredths of half precision's at most; None where scores are too large for that.

    In float32, whose products an H200 computes no faster than float64's; so of bfloat16, which TF32 holds to the last
    bit, they are its tensor cores': in a third of the time. The weights, which TF32 rounds to a sixteenth of what
    bfloat16 does, are summed as they are multiplied. with_lse: the log-sum-exp too, which asks more of the scores.
    """
    k, v = part.keys(inputs.k).float(), part.keys(inputs.v).float()
    longest, elements = k.norm(dim=-1).amax() * inputs.scale, v.shape[-1]
    ones = v.new_ones(*v.shape[:-1], ALIGNED)
    values, is_coarse = torch.cat([v, ones], dim=-1), inputs.q.dtype == torch.bfloat16
    outs, sums = [], []
    for first_row, some, seen in _chunks(inputs, part):
        q = some.float()
        bound = float(q.norm(dim=-1).amax() * longest)
        if not _rounds_little(bound, inputs.q.dtype):
            return None
        with _tensor_cores(is_coarse and not with_lse and _rounds_little(TRUNCATED * bound, inputs.q.dtype)):
            keys = k[:, :, :seen].transpose(-1, -2).flatten(0, 1)
            found = torch.baddbmm(q.new_zeros(()), q.flatten(2, 3).flatten(0, 1), keys, beta=0, alpha=inputs.scale)
        scores = found.view(*q.shape[:-1], seen)
        if inputs.causal:
            _hide(scores, first_row=first_row + inputs.k.shape[2] - inputs.q.shape[2])
        top = _subtract_top(scores) if bound > LARGEST_EXPONENT[torch.float32] else scores.new_zeros(())
        scores.exp_()
        if with_lse:
            sums.append((scores.sum(-1, keepdim=True).log() + top)[..., 0])
        with _tensor_cores(is_coarse):
            weighed = weigh(scores, values[:, :, :seen])
        total = weighed[..., elements : elements + 1].clamp_min(torch.finfo(torch.float32).tiny)
        outs.append(weighed[..., :elements] / total)
    return Exact(torch.cat(outs, dim=3), torch.cat(sums, dim=3) if with_lse else k.new_empty(0))


@contextlib.contextmanager
def _tensor_cores(wanted: bool) -> Iterator[None]:
    """Whether a GPU may round the operands of float32's products to TF32: 10 bits behind the point."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _rounds_little(bound: float, dtype: torch.dtype) -> bool:
    """Whether float32 tells scores up to a bound well enough for inputs of a dtype."""
    return bound * torch.finfo(torch.float32).eps <= ROUNDED * torch.finfo(dtype).eps


def _chunks(inputs: Inputs, part: Part) -> Iterator[tuple[int, torch.Tensor, int]]:
    """Some query rows of a part at a time: the first row's number, the rows, and how many keys any of them sees.

    Of keys that none of them sees nothing can be computed that counts: half of all, of a causal call.
    """
    q = part.queries(inputs.q, inputs.q.shape[1] // inputs.k.shape[1])
    keys = inputs.k.shape[2]
    step = max(1, SCORES_AT_ONCE[q.device.type] // (q.shape[0] * q.shape[1] * q.shape[2] * keys))
    if inputs.causal:
        step = min(step, CAUSAL_ROWS)
    start = part.rows.indices(inputs.q.shape[2])[0]
    for offset in range(0, q.shape[3], step):
        some = q[..., offset : offset + step, :]
        yield start + offset, some, _seen(inputs, start + offset + some.shape[3]) if inputs.causal else keys


def _hide(scores: torch.Tensor, *, first_row: int) -> None:
    """Hide the keys that rows do not see: of the first of them those behind key `first_row`, then one fewer a row."""
    rows, keys = scores.shape[-2:]
    seen_by_all = max(0, min(keys, first_row + 1))
    last = torch.arange(first_row, first_row + rows, device=scores.device)
    hidden = torch.arange(seen_by_all, keys, device=scores.device) > last[:, None]
    scores[..., seen_by_all:].masked_fill_(hidden, float("-inf"))


def _seen(inputs: Inputs, end: int) -> int:
    """How many keys the query rows before `end` see, one at least."""
    return max(1, min(inputs.k.shape[2], end + inputs.k.shape[2] - inputs.q.shape[2]))
