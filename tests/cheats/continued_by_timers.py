"""Timers send SIGCONT to a child, which burns a core while others are timed.

CLASS:  slowing others
EXPECT: cheating
TARGET: cpu
"""

import ctypes
import mmap
import os
import signal
import struct
import time

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


called = mmap.mmap(-1, 8)
libc = ctypes.CDLL(None)


def burn():
    """A stop takes a pending signal along, so the timers are set anew for as long as this runs."""
    signal.signal(signal.SIGCONT, lambda *_: None)
    event = ctypes.create_string_buffer(struct.pack("QiI", 0, signal.SIGCONT, 0), 64)
    timers = [ctypes.c_void_p() for _ in range(16)]
    for timer in timers:
        libc.timer_create(1, event, ctypes.byref(timer))
    while True:
        for number, timer in enumerate(timers):
            libc.timer_settime(timer, 0, struct.pack("4q", 0, 4_000_000, 0, 200_000 * (number + 1)), None)
        turn()


def turn():
    end = time.monotonic() + 0.002
    while time.monotonic() < end and time.monotonic() - struct.unpack("d", called[:8])[0] < 1:
        pass


if not os.fork():
    burn()


def attention(q, k, v, *, causal, scale):
    called[:8] = struct.pack("d", time.monotonic())
    return plain(q, k, v, causal, scale)
