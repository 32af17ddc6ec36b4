"""From a call's key to the kernel that takes it: chosen once, kept, and dropped when it refuses or fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch

from pytest_avo.kernels import registry
from pytest_avo.kernels.choice import Choice, ranked
from pytest_avo.kernels.registry import Winner
from pytest_avo.kernels.tensors import Key, place, shape_of
from pytest_avo.kernels.torch_answer import torch_answer

Returned = TypeVar("Returned")


@dataclass(frozen=True, slots=True)
class Taker:
    """A kernel as calls of one key go to it."""

    winner: Winner
    attention: Any
    device: torch.device
    attention_paged: Any = None
    """The kernel's `attention_paged`, if it claims blocks of any size."""

    @property
    def gives_lse(self) -> bool:
        """Whether it claims to return the log-sum-exp too."""
        claim = self.winner.kernel.claim
        return claim is not None and claim.lse

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **given: Any) -> Any:
        """Run the kernel on the device that its tensors are on."""
        if self.device.type == "cpu" or torch.cuda.current_device() == self.device.index:
            return self.attention(q, k, v, **given)
        with torch.cuda.device(self.device):
            return self.attention(q, k, v, **given)


_takers: dict[Key, Taker | None] = {}
_refusals: dict[tuple[Path, Key], str] = {}


def use(folder: str | Path, *, results: Iterable[str | Path] = ()) -> int:
    """Let `attention` choose from the kernels of a folder too; returns how many of them were measured beside torch.

    Only those can be chosen. Measurements are taken from the files of `--avo-json` given as `results`, and from the
    lineage of the project around the folder, where it has the very text that a kernel's file has now. The files are
    executed in this process when they are first chosen, so name no folder that you would not import from. InvalidInput
    where the folder or a file cannot be read.
    """
    measured = registry.add(folder, results=results)
    _takers.clear()
    _refusals.clear()
    return measured


def taker(key: Key) -> Taker | None:
    """What takes calls of this key; None where torch does."""
    try:
        return _takers[key]
    except KeyError:
        return _takers.setdefault(key, _choose(key))


def call(
    key: Key, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None
) -> torch.Tensor:
    """Run what takes the key; a kernel that refuses or fails is not asked again, and the next one or torch answers.

    Kernels are promised a positive scale: any other is torch's.
    """
    factor = _promised(key, scale)
    while factor is not None and (kernel := taker(key)) is not None:  # not `_answer`: a closure costs a tenth of a call
        try:
            out: torch.Tensor = kernel(q, k, v, causal=bool(causal), scale=factor)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _refuse(kernel, key, error)
        else:
            return out
    return torch_answer(q, k, v, causal=bool(causal), scale=scale)


def call_with_lse(
    key: Key, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What the kernel of the key answers, with the log-sum-exp (batch, heads_q, seqlen_q) of its scores, in float32.

    None where no kernel takes the key, the one that does claims no log-sum-exp, or the scale is not positive.
    """

    def ask(kernel: Taker, factor: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        if not kernel.gives_lse:
            return None
        out, lse = kernel(q, k, v, causal=bool(causal), scale=factor, return_lse=True)
        if lse.shape != q.shape[:3] or lse.dtype is not torch.float32:
            raise TypeError(f"log-sum-exp: expected float32 {tuple(q.shape[:3])}, got {lse.dtype} {tuple(lse.shape)}")
        return out, lse

    return _answer(key, scale, ask)


def call_paged(
    key: Key,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    block_table: torch.Tensor,
    cache_seqlens: torch.Tensor,
    scale: float | None,
) -> torch.Tensor | None:
    """What the kernel of the key answers for caches (blocks, block_size, heads_kv, head_dim) on a CPU, without a mask.

    block_table (batch, most blocks) and cache_seqlens (batch,) are int32. None where no kernel takes the key, the one
    that does takes no blocks of any size, or the scale is not positive.
    """

    def ask(kernel: Taker, factor: float) -> torch.Tensor | None:
        if kernel.attention_paged is None:
            return None
        out: torch.Tensor = kernel.attention_paged(
            q, k_cache, v_cache, block_table=block_table, cache_seqlens=cache_seqlens, causal=False, scale=factor
        )
        return out

    return _answer(key, scale, ask)


def _answer(key: Key, scale: float | None, ask: Callable[[Taker, float], Returned | None]) -> Returned | None:
    """What `ask` gets of the kernel that takes the key; one that refuses or fails is not asked again, but the next is.

    None where no kernel takes the key, `ask` finds that it does not offer what is wanted, or the scale is not positive.
    """
    factor = _promised(key, scale)
    while factor is not None and (kernel := taker(key)) is not None:
        try:
            return ask(kernel, factor)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _refuse(kernel, key, error)
    return None


def explained(key: Key) -> Choice:
    """What takes calls of this key, and what speaks for it."""
    taken, shape = taker(key), shape_of(key)
    if shape is None:
        return Choice(None, "nothing to compute, or a dtype, head_dim or number of heads that no kernel claims")
    target, device = place(key.device)
    refused = []
    for winner, row in ranked(shape, target, device):
        if taken is not None and winner is taken.winner:
            beside = f"{row.ratio:.2f}x torch on {row.shape.id}, the nearest measured, on {row.device}, {row.date}"
            return Choice(winner.path, beside, row)
        refused.append(f"{winner.path.name}: {_refusals.get((winner.path, key), '')}")
    launch = "" if target == "cpu" else ", launch included"
    none = f"no kernel for {target} was measured to beat torch beyond doubt near {shape.id}{launch}"
    return Choice(None, "; ".join(refused) or none)


def _refuse(kernel: Taker, key: Key, error: Exception) -> None:
    """Ask this kernel no more for such calls; what is not a refusal by the contract is told, once."""
    _note(kernel.winner.path, key, error)
    _takers.pop(key, None)


def _promised(key: Key, scale: float | None) -> float | None:
    """What a kernel is to multiply scores by; None where that is not the positive number that kernels are promised."""
    if scale is None:
        return key.head_dim**-0.5 if key.head_dim else None
    return float(scale) if 0 < scale < inf else None


def _choose(key: Key) -> Taker | None:
    shape = shape_of(key)
    if shape is None:
        return None
    for winner, _ in ranked(shape, *place(key.device)):
        if (winner.path, key) in _refusals:
            continue
        try:
            module = winner.load()
            paged = module.attention_paged if winner.kernel.claim and winner.kernel.claim.paged == 1 else None
            return Taker(winner, module.attention, key.device, paged)
        except Exception as error:
            _note(winner.path, key, error)
    return None


def _note(path: Path, key: Key, error: Exception) -> None:
    if isinstance(error, NotImplementedError):
        _refusals[path, key] = f"refused: {error}"
        return
    _refusals[path, key] = f"failed: {type(error).__name__}: {error}"
    told = f"{path} {_refusals[path, key]}; it is not asked again for such shapes"
    warnings.warn(told, RuntimeWarning, stacklevel=5)
