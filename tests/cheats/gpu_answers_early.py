"""Answers when three fifths of its usual time are over: the device goes on while the process is frozen.

CLASS:  late work (GPU)
EXPECT: score_true|incorrect|cheating
TARGET: gpu
"""

import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention


def attention(q, k, v, *, causal, scale):
    grouped = q.shape[1] != k.shape[1]
    if not causal or q.shape[-2] == 1:
        return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    rows, keys = q.shape[-2], k.shape[-2]
    if rows == keys:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    out = scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale, enable_gqa=grouped)
    if rows > keys:
        out[:, :, : rows - keys] = 0
    return out


usual = {}


def replay(calls, recorded, graph):
    """In the place of the harness's own, which waits."""
    times = usual.setdefault(id(recorded), [])
    begun = time.perf_counter()
    graph.replay()
    if len(times) < 3:
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    else:
        while time.perf_counter() - begun < 0.6 * min(times):
            pass
    seconds = time.perf_counter() - begun
    return {"calls": len(recorded.calls), "forms": recorded.forms, "seconds": seconds, "replayed": True}


sys.modules["pytest_avo.evaluation.kernel_process.gpu_calls"].GpuCalls._replay = replay
