"""What the judge's side and a kernel's process must agree on, and the one module of it that both import."""

from __future__ import annotations

MAX_MESSAGE = 1 << 17
"""Bytes of a request or a reply, each one message of a SOCK_SEQPACKET socket."""
CHILD_SOCKET, CHILD_INPUT, CHILD_OUTPUT = 3, 4, 5
"""Descriptors of a kernel's process: where it is asked, its memory for arguments and its memory for results."""
KERNEL_FILE = "kernel.py"
"""The name of the kernel's file in its private folder."""
FUNCTIONS = ("attention", "attention_varlen", "attention_paged")
"""What a kernel's file may offer; a call names one of them."""
MAX_FORMS = 4
"""Different forms of results that a reply may name."""
