"""What kernels are compared with: each peer is a kernel like any other and runs in a process of its own."""

from __future__ import annotations

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Subject

TORCH_SDPA = '''"""torch's own scaled_dot_product_attention, with a bottom-right causal mask."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def attention(q, k, v, *, causal, scale):
    seqlen_q, seqlen_kv = q.shape[-2], k.shape[-2]
    grouped = q.shape[1] != k.shape[1]
    if not causal or seqlen_q == 1:
        return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    if seqlen_q == seqlen_kv:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    # is_causal is aligned top-left in torch, so unequal lengths need the mask written out.
    visible = torch.ones(seqlen_q, seqlen_kv, dtype=torch.bool, device=q.device).tril(seqlen_kv - seqlen_q)
    out = scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale, enable_gqa=grouped)
    return torch.nan_to_num(out) if seqlen_q > seqlen_kv else out
'''

PEERS = {"torch-sdpa": TORCH_SDPA}


def peer(name: str) -> Subject:
    """The kernel that stands for peer `name`."""
    if name not in PEERS:
        raise InvalidInput(f"--avo-peers: unknown peer {name!r}, expected some of {', '.join(sorted(PEERS))}")
    return Subject(label=name, source=PEERS[name])
