"""A thread per head, all joined.

CLASS:  honest
EXPECT: accept
"""

import threading

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


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    out = torch.empty_like(q)

    def work(head):
        one = slice(head // group, head // group + 1)
        out[:, head : head + 1] = plain(q[:, head : head + 1], k[:, one], v[:, one], causal, scale)

    threads = [threading.Thread(target=work, args=(head,)) for head in range(q.shape[1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out
