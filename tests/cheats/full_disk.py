"""Writes a file without end.

CLASS:  exhaustion
EXPECT: crash|contained
"""


def attention(q, k, v, *, causal, scale):
    with open("filler", "wb") as file:
        file.truncate(1 << 40)
        raise RuntimeError("ESCAPED: made a file of a terabyte")
