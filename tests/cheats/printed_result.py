"""Prints a winning result wherever it can and ends with status 0.

CLASS:  attacking the harness
EXPECT: crash|cheating
"""

import os

for descriptor in range(1, 64):
    try:
        os.write(descriptor, b'{"said": "done", "correct": true, "time_ms": 1e-6}')
    except OSError:
        continue
os._exit(0)


def attention(q, k, v, *, causal, scale):
    return q
