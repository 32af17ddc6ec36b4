"""`attn_implementation="avo"` for transformers.

    from pytest_avo.integrations.transformers import register

    register()
    model = AutoModelForCausalLM.from_pretrained(NAME, attn_implementation="avo")

The mask is the one that `sdpa` gets, with a note of which keys each sequence sees where that is one run of keys: then
the kernels take those keys alone. Whatever else a layer asks for (another mask, dropout, position bias, heads of two
dimensions) goes to transformers' own `sdpa`, and what that would silently leave out is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from pytest_avo.integrations.padded import attend_padded
from pytest_avo.integrations.spans import KeyRun, Spans, note, noted, spans_of_mask, spans_of_padding, windowed
from pytest_avo.integrations.windows import attend_window
from pytest_avo.kernels.attention import attention
from pytest_avo.kernels.dispatch import taker
from pytest_avo.kernels.tensors import key_of

NAME = "avo"
REFUSED = ("softcap", "s_aux")
"""What a layer may ask for and neither the kernels nor `sdpa` compute: a cap on scores, and attention sinks."""
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "block_table", "read_index")
"""What comes without a mask where sequences lie packed or in pages, as in continuous batching."""


def register() -> str:
    """Make `attn_implementation="avo"` known to transformers; returns that name. Calling it again changes nothing."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)
    return NAME


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    *,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    **rest: Any,
) -> torch.Tensor | None:
    """The mask of `sdpa`, None where causality says all, with the spans of keys that the sequences see noted on it."""
    made: torch.Tensor | None = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip,
        use_vmap=use_vmap,
        **rest,
    )
    if made is None or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return made
    # Causality alone may be left to `is_causal` just where nothing was laid over it; a window is, and may not bite yet.
    whole = local_size is None or (kv_length <= local_size and not kv_offset)
    causal = allow_is_causal_skip and not use_vmap and whole
    full = rest.get("mask_function") is bidirectional_mask_function and local_size is None
    if q_length == 1:
        return note(made, spans_of_mask(made))
    window = None if whole else local_size
    if not causal and not full and window is None:
        return made
    offset = None if full else int(q_offset) - kv_offset
    spans = spans_of_padding(attention_mask, batch_size, q_length, kv_length, kv_offset, offset)
    return note(made, spans if window is None or offset is None else windowed(made, spans, window, offset))


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """A layer's attention, as AttentionInterface has it.

    query (batch, heads_q, seqlen_q, head_dim), key and value (batch, heads_kv, seqlen_kv, head_dim), not repeated; the
    result is (batch, seqlen_q, heads_q, head_dim), contiguous. Rows of padding come out as zero where a kernel ran.
    """
    for name in REFUSED:
        if rest.get(name) is not None:
            raise NotImplementedError(f'attn_implementation="avo": {name} is not implemented; use "eager"')
    if attention_mask is None and any(rest.get(name) is not None for name in PACKED):
        raise NotImplementedError('attn_implementation="avo": packed or paged sequences need a mask; use "sdpa"')
    plain = not dropout and rest.get("position_bias") is None and key.shape == value.shape
    if plain and attention_mask is None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        return _as_layers_do(_unmasked(query, key, value, bool(causal), scaling)), None
    traced = torch.compiler.is_compiling()
    spans = noted(attention_mask) if plain and attention_mask is not None and not traced else None
    if spans is not None and key.shape[2] == spans.kv_length and query.shape[2] == spans.q_length:
        out = attend_spans(query, key, value, spans, scaling)
        if out is not None:
            return _as_layers_do(out), None
    answer: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **rest
    )
    return answer


def _unmasked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None) -> torch.Tensor:
    """Attention without a mask: a single query sees every key; several, if causal, those up to their own position."""
    if causal and q.shape[2] > 1:
        # The keys behind the queries, of a cache of a fixed length, are not there yet.
        return attention(q, k[:, :, : q.shape[2]], v[:, :, : q.shape[2]], causal=True, scale=scale)
    return attention(q, k, v, causal=False, scale=scale)


def attend_spans(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Spans, scale: float | None
) -> torch.Tensor | None:
    """Each sequence over its own keys; None where no kernel takes them and one call of torch under the mask is better.

    As `attend`, but (batch, heads_q, seqlen_q, head_dim).
    """
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return None
    if spans.window is not None:
        return _attend_windows(q, k, v, spans, spans.window, scale)
    groups = spans.groups()
    if spans.q_length == 1 and len(groups) > 1 and q.device.type == "cpu":
        return attend_padded(q, k, v, spans, scale)
    parts = []
    for rows, span in groups:
        part = _part(q, k, v, rows, span)
        asked = key_of(*part, spans.causal)
        if asked is None or taker(asked) is None:
            return None
        parts.append(part)
    if len(groups) == 1 and parts[0][0].shape == q.shape:
        return attention(*parts[0], causal=spans.causal, scale=scale)
    out = torch.zeros((q.shape[0], q.shape[2], q.shape[1], q.shape[3]), dtype=q.dtype, device=q.device).transpose(1, 2)
    for (rows, span), part in zip(groups, parts, strict=True):
        out[rows, :, span.first_query : span.last_query] = attention(*part, causal=spans.causal, scale=scale)
    return out


def _attend_windows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Spans, window: int, scale: float | None
) -> torch.Tensor | None:
    out = torch.zeros((q.shape[0], q.shape[2], q.shape[1], q.shape[3]), dtype=q.dtype, device=q.device).transpose(1, 2)
    for row, span in enumerate(spans.each):
        part = _part(q, k, v, slice(row, row + 1), span)
        if part[1].shape[2] <= window:
            found: torch.Tensor | None = attention(*part, causal=True, scale=scale)
        else:
            found = attend_window(*part, window=window, scale=scale)
        if found is None:
            return None
        out[row, :, span.first_query : span.last_query] = found[0]
    return out


def _part(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: slice, span: KeyRun
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys = rows, slice(None), slice(span.first_key, span.last_key)
    return q[rows, :, span.first_query : span.last_query], k[keys], v[keys]


def _as_layers_do(out: torch.Tensor) -> torch.Tensor:
    return out.transpose(1, 2).contiguous()
