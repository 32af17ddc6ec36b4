"""Changes mode, times and attributes of files that are not its own.

CLASS:  reaching out
EXPECT: contained
"""

import os
import sys

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


FILES = [sys.executable, os.path.dirname(torch.__file__), "/usr/bin/env", "/etc/hostname", "/etc"]


def attempts(path):
    mode = os.stat(path).st_mode & 0o7777
    yield "mode", lambda: os.chmod(path, mode)
    yield "owner", lambda: os.chown(path, os.stat(path).st_uid, os.stat(path).st_gid)
    yield "times", lambda: os.utime(path, ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    yield "attribute", lambda: os.setxattr(path, "user.avo", b"1")


for path in filter(os.path.exists, FILES):
    for what, attempt in attempts(path):
        try:
            attempt()
        except OSError:
            continue
        raise RuntimeError(f"ESCAPED: may change the {what} of {path}")


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
