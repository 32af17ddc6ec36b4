"""torch's own attention.

CLASS:  honest
EXPECT: accept
"""

import torch


def attention(q, k, v, *, causal, scale):
    mask = None
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril(k.shape[-2] - q.shape[-2])
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return torch.nan_to_num(out) if causal else out
