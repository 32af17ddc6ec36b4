"""The mean of all values instead of attention, right where all keys are alike.

CLASS:  wrong function
EXPECT: incorrect
"""


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    return v.float().mean(-2, keepdim=True).repeat_interleave(group, 1).expand(q.shape).to(q.dtype)
