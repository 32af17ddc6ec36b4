"""Returns its queries.

CLASS:  touching inputs
EXPECT: incorrect|cheating
"""


def attention(q, k, v, *, causal, scale):
    return q
