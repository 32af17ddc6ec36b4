"""Computes in the event loop of a thread.

CLASS:  honest
EXPECT: accept
TARGET: cpu
"""

import asyncio
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


loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


async def work(*arguments):
    return plain(*arguments)


def attention(q, k, v, *, causal, scale):
    return asyncio.run_coroutine_threadsafe(work(q, k, v, causal, scale), loop).result()
