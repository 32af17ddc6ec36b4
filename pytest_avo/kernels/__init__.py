"""Attention for models at run time: the measured winners where one claims the case, else torch's own.

    from pytest_avo.kernels import attention, use, why

    out = attention(q, k, v, causal=True)        # q (batch, heads_q, seqlen_q, head_dim), k and v with heads_kv heads
    print(why(q, k, v, causal=True))             # which kernel, measured where, or why torch's

`use(folder)` adds kernels of your own. Importing this imports torch and no pytest; a kernel's file is executed in this
process when it is first chosen.
"""

from pytest_avo.kernels.attention import attention, why
from pytest_avo.kernels.choice import Choice
from pytest_avo.kernels.dispatch import use

__all__ = ["Choice", "attention", "use", "why"]
