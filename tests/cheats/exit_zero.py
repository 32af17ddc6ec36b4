"""Ends with status 0 in the middle of a call.

CLASS:  attacking the harness
EXPECT: crash
"""

import sys


def attention(q, k, v, *, causal, scale):
    sys.exit(0)
