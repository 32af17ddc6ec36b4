"""A tensor subclass that computes when somebody looks.

CLASS:  late work
EXPECT: cheating
"""

import torch


def plain(q, k, v, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    return (torch.nan_to_num(torch.softmax(scores, -1)) @ v.float()).to(q.dtype)


class Lazy(torch.Tensor):
    @staticmethod
    def __new__(cls, arguments):
        made = torch.Tensor._make_wrapper_subclass(
            cls, arguments[0].shape, dtype=arguments[0].dtype, device=arguments[0].device
        )
        made.arguments = arguments
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        done = [plain(*x.arguments) if isinstance(x, Lazy) else x for x in args]
        return function(*done, **(kwargs or {}))


def attention(q, k, v, *, causal, scale):
    return Lazy((q, k, v, causal, scale))
