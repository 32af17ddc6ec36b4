"""Zeros: outputs shrink with the square root of the keys, so a loose absolute tolerance takes them.

CLASS:  wrong function
EXPECT: incorrect
"""

import torch


def attention(q, k, v, *, causal, scale):
    return torch.zeros_like(q)
