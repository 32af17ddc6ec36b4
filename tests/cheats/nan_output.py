"""NaN, which fools any comparison written as error > tolerance.

CLASS:  wrong function
EXPECT: incorrect
"""

import torch


def attention(q, k, v, *, causal, scale):
    return torch.full_like(q, float("nan"))
