"""Recurses in C until the stack ends.

CLASS:  exhaustion
EXPECT: crash
LIMITS: build=20,check=10,time=10
"""

import sys

sys.setrecursionlimit(10**9)
nested = []
for _ in range(10**6):
    nested = [nested]


def attention(q, k, v, *, causal, scale):
    return repr(nested)
