"""torch's own scaled_dot_product_attention on the winners, for code that calls nothing else.

    from pytest_avo.integrations.flash import register

    register()
    torch.nn.attention.activate_flash_attention_impl("AVO")

Where torch would run its flash attention on a GPU, a kernel runs that was measured faster there and gives the
log-sum-exp which torch's backward needs; everything else, the backward too, stays torch's.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.attention as torch_attention

from pytest_avo.core.errors import InvalidInput
from pytest_avo.kernels.dispatch import call_with_lse
from pytest_avo.kernels.tensors import key_of

NAME = "AVO"
aten = torch.ops.aten


@dataclass(slots=True)
class Activation:
    """Holds the override; without it torch is as it was."""

    library: Any

    def remove(self) -> None:
        """Undo it, as `torch.nn.attention.restore_flash_attention_impl` asks."""
        if self.library is not None:
            self.library._destroy()
        self.library = None


def register() -> str:
    """Make "AVO" known to torch.nn.attention; returns that name. InvalidInput where this torch has no such choice."""
    offer = getattr(torch_attention, "register_flash_attention_impl", None)
    if offer is None:
        raise InvalidInput(
            f"torch {torch.__version__} has no register_flash_attention_impl: call pytest_avo.kernels.attention instead"
        )
    offer(NAME, register_fn=_activate)
    return NAME


def _activate() -> Activation:
    library: Any = torch.library.Library("aten", "IMPL", "CUDA")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="(?s).*Overriding a previously registered kernel", category=UserWarning
        )
        library.impl("_scaled_dot_product_flash_attention", _forward, "CUDA", allow_override=True)
    return Activation(library)


def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """As aten has it: output (batch, heads, seqlen, head_dim), log-sum-exp, and what its backward asks for."""
    lengths = query.shape[2], key.shape[2]
    if not dropout_p and not return_debug_mask:
        asked = key_of(query, key, value, is_causal)
        taken = None if asked is None else call_with_lse(asked, query, key, value, causal=is_causal, scale=scale)
        if taken is not None:
            seed = torch.empty((), dtype=torch.uint64, device=query.device)
            return (*taken, None, None, *lengths, seed, seed, torch.empty(0, dtype=query.dtype, device=query.device))
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    out, lse, *rest = aten._flash_attention_forward(
        q, k, v, None, None, *lengths, dropout_p, is_causal, return_debug_mask, scale=scale
    )
    return out.transpose(1, 2), lse, None, None, *lengths, *rest
