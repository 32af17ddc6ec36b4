"""Leaves a stream waiting until its next arguments are written, and computes while others are timed on them.

A wait for a value in memory occupies nothing of the device; the work behind it begins while all processes are frozen.

CLASS:  slowing others (GPU)
EXPECT: score_true|incorrect|cheating
TARGET: gpu
"""

import ctypes
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


driver = ctypes.CDLL("libcuda.so.1")
wait_for_value = getattr(driver, "cuStreamWaitValue32_v2", None) or driver.cuStreamWaitValue32
ANY_OF = 2
LEAST_ASKED = 3
"""Slices of checks and of warming up: what is captured and loaded there would wait for the stream that waits."""
side = torch.cuda.Stream()
plans = {}


class Plan:
    """Graphs for a slice: one that computes everything into memory of our own, twice, one that copies it to its places."""

    def __init__(self, recorded):
        torch.cuda.synchronize()
        self.recorded = recorded
        self.outs = [torch.empty_like(place[0]) for place in recorded.places]
        last = recorded.arguments[-1][2]
        self.address = last.data_ptr()
        self.watched = torch.as_strided(last, (2,), (1,)).view(torch.int32)[:1]
        self.seen = torch.zeros(1, dtype=torch.int32, device="cuda")
        # A graph that waits cannot be launched a second time meanwhile, hence two of the same.
        self.early, self.compute, self.copy = (torch.cuda.CUDAGraph() for _ in range(3))
        for graph in (self.early, self.compute):
            with torch.cuda.graph(graph):
                self.seen.copy_(self.watched)
                for (q, k, v), by_name, out in zip(recorded.arguments, recorded.options, self.outs):
                    out.copy_(attention(q, k, v, **by_name))
        with torch.cuda.graph(self.copy):
            torch._foreach_copy_([place[0] for place in recorded.places], self.outs)
        torch.cuda._sleep(1)  # whatever is loaded when it first runs is loaded now: that waits for all streams
        self.early.replay()
        self.compute.replay()
        self.copy.replay()
        self.pending, self.asked = False, 0
        torch.cuda.synchronize()

    def answer(self):
        begun = time.perf_counter()
        self.asked += 1
        while self.pending and not side.query() and time.perf_counter() - begun < 0.02:
            pass
        if not (self.pending and side.query() and bool(self.seen == self.watched)):
            self.compute.replay()
        self.copy.replay()
        torch.cuda.current_stream().synchronize()
        if self.asked > LEAST_ASKED and (not self.pending or side.query()):
            self.arm()

    def arm(self):
        mask = ~int(self.watched.item()) & 0xFFFF
        with torch.cuda.stream(side):
            wait_for_value(
                ctypes.c_void_p(side.cuda_stream), ctypes.c_uint64(self.address), ctypes.c_uint32(mask), ANY_OF
            )
            torch.cuda._sleep(400_000)
            self.early.replay()
        self.pending = True


def replay(calls, recorded, graph):
    """In the place of the harness's own."""
    begun = time.perf_counter()
    if id(recorded) not in plans:
        plans[id(recorded)] = Plan(recorded)
    plans[id(recorded)].answer()
    seconds = time.perf_counter() - begun
    return {"calls": len(recorded.calls), "forms": recorded.forms, "seconds": seconds, "replayed": True}


def synchronize(*_):
    """Not what waits: whose arguments lie elsewhere would wait for ever."""
    torch.cuda.current_stream().synchronize()


torch.cuda.synchronize = synchronize
runner = sys.modules["pytest_avo.evaluation.kernel_process.gpu_calls"]
runner._synchronize, runner.GpuCalls._replay = synchronize, replay
