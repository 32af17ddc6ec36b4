"""Takes what lies in the harness's own result memory for the answer.

CLASS:  memory
EXPECT: incorrect|crash
"""

import mmap
import os

import torch


def attention(q, k, v, *, causal, scale):
    with mmap.mmap(5, os.fstat(5).st_size) as memory:
        return torch.frombuffer(bytearray(memory[: q.numel() * q.element_size()]), dtype=q.dtype).view(q.shape)
