"""Aborts.

CLASS:  exhaustion
EXPECT: crash
"""

import os


def attention(q, k, v, *, causal, scale):
    os.abort()
