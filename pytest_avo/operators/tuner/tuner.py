"""The embedded operator: varies the tunables that a kernel declares, guided by the lineage. No model, no network."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from pathlib import Path

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import Literal, Tunable, parse_kernel
from pytest_avo.core.source import source_digest
from pytest_avo.lineage.records import GEOMEAN, Status
from pytest_avo.lineage.view import View
from pytest_avo.operators.operator import Proposal, Task
from pytest_avo.operators.tuner.prediction import Prediction, predict
from pytest_avo.operators.tuner.rewrite import Rewriter
from pytest_avo.operators.tuner.search import Configuration, Measured, next_configuration, position

REFUSED: frozenset[Status] = frozenset({"incorrect", "crashed", "timeout", "rejected", "unsupported"})


class Tuner:
    """Chooses values of `TUNABLES` with Optuna and writes them into the parent's source.

    It keeps no state but a cache: each proposal is made from the lineage alone, so a resumed run goes on as if it had
    never stopped.
    """

    name = "tuner"

    def __init__(self) -> None:
        self._values: dict[str, Configuration] = {}
        self._lock = threading.Lock()

    def describe(self) -> str:
        return "tuner (no model, no network)"

    def propose(self, task: Task) -> Proposal | None:
        """The parent with other values of its tunables; None when this run has tried them all.

        InvalidInput when the kernel declares no tunables.
        """
        kernel = task.kernel
        if not kernel.tunables:
            found = kernel.fault or "none"
            raise InvalidInput(
                f'{kernel.path}: TUNABLES: expected a module-level literal such as TUNABLES = {{"BLOCK_Q": [64, 128]}}'
                f" that names values for the tuner to try, found {found}"
            )
        tried = {attempt.digest for attempt in task.view.attempts()} | {kernel.digest}
        measured = self._measured(task.view, kernel.tunables)
        rewriter = Rewriter.of(kernel.source, (tunable.name for tunable in kernel.tunables))
        incumbent = {tunable.name: tunable.value for tunable in kernel.tunables}
        chosen = next_configuration(
            kernel.tunables,
            measured,
            incumbent=incumbent,
            is_tried=lambda values: source_digest(rewriter.with_values(values)) in tried,
            seed=_seed(task),
        )
        if chosen is None:
            return None
        prediction = predict(kernel.tunables, measured, old=incumbent, new=chosen)
        return Proposal(
            source=rewriter.with_values(chosen),
            hypothesis=_hypothesis(kernel.tunables, chosen, prediction),
            predicted={} if prediction is None else {GEOMEAN: math.exp(prediction.log_ratio)},
        )

    def _measured(self, view: View, tunables: Sequence[Tunable]) -> list[Measured]:
        """The run's finished attempts as configurations of `tunables`, where they are that."""
        scores, outcomes = view.log_scores(), view.outcomes()
        found: list[Measured] = []
        for attempt in view.attempts():
            refused = attempt.id in outcomes and outcomes[attempt.id].status in REFUSED
            if not refused and attempt.id not in scores:
                continue
            values = self._values_of(attempt.digest, view)
            if all(_among(tunable, values) for tunable in tunables):
                found.append(Measured(values, None if refused else scores[attempt.id]))
        return found

    def _values_of(self, digest: str, view: View) -> Configuration:
        """The tunables' values in a source of the lineage; empty when it declares none, or wrongly."""
        with self._lock:
            if digest not in self._values:
                self._values[digest] = _declared(view.source(digest))
            return self._values[digest]


def _declared(source: str) -> dict[str, Literal]:
    try:
        return {tunable.name: tunable.value for tunable in parse_kernel(source, path=Path("lineage")).tunables}
    except InvalidInput:
        return {}


def _among(tunable: Tunable, values: Configuration) -> bool:
    try:
        position(tunable, values[tunable.name])
    except (KeyError, ValueError):
        return False
    return True


def _seed(task: Task) -> int:
    """One number of run seed, generation and member: members of a generation must not propose the same."""
    text = f"{task.seed}/{task.generation}/{task.member}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _hypothesis(tunables: Sequence[Tunable], chosen: Configuration, prediction: Prediction | None) -> str:
    """For example "BLOCK_Q 64 -> 128, PACK False -> True: predicted +4.1% from 3 earlier attempts"."""
    changes = ", ".join(
        f"{tunable.name} {tunable.value} -> {chosen[tunable.name]}"
        for tunable in tunables
        if chosen[tunable.name] != tunable.value
    )
    if prediction is None:
        return f"{changes}: a value not measured before, exploring"
    attempts = "1 earlier attempt" if prediction.evidence == 1 else f"{prediction.evidence} earlier attempts"
    return f"{changes}: predicted {math.exp(prediction.log_ratio) - 1:+.1%} from {attempts}"
