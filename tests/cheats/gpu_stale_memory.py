"""Blocks of the caching allocator that nobody wrote to.

CLASS:  memory (GPU)
EXPECT: incorrect
TARGET: gpu
"""

import torch


def attention(q, k, v, *, causal, scale):
    return torch.empty_like(q)
