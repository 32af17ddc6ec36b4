"""A captured graph that works on copies of the first arguments.

Nobody holds the copies when the call is over: a later replay reads what torch's allocator has put there for other
shapes since, or memory that it gave back to the driver, which then ends the process: an illegal memory access.

CLASS:  replay (GPU)
EXPECT: incorrect|cheating|crash
TARGET: gpu
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


graphs = {}


def attention(q, k, v, *, causal, scale):
    key = (q.shape, k.shape, q.dtype, causal, scale)
    if key not in graphs:
        copies = tuple(x.clone() for x in (q, k, v))
        plain(*copies, causal, scale)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = plain(*copies, causal, scale)
        graphs[key] = graph, out
    graph, out = graphs[key]
    graph.replay()
    return out
