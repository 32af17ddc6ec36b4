"""What goes wrong with a kernel's process, and whose doing it is."""

from __future__ import annotations

from pytest_avo.core.evaluation import Outcome


class KernelFault(Exception):
    """What a kernel did wrong: becomes its outcome and reason."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        # A kernel's own words may be in it, which nobody is to obey: one line, nothing that a terminal or CI reads.
        reason = "".join(char if char.isprintable() else "?" for char in " ".join(reason.split())).replace("##", "# #")
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class KernelRaised(KernelFault):
    """The kernel raised in Python: its process is still there and can be asked again."""


class Suspected(KernelFault):
    """The kernel seems to have worked while it was to stand still: a busy machine may look like that, though seldom."""


class KernelEnded(Exception):
    """The kernel's process is gone; how it went is known once it is reaped."""


class ArmFault(Exception):
    """An arm failed while it was timed."""

    def __init__(self, arm: str, shape: str, error: KernelFault | KernelEnded) -> None:
        super().__init__(str(error))
        self.arm = arm
        self.shape = shape
        self.error = error
