"""From a screened candidate to its outcome: confirmed, promoted into the kernel's file, recorded, said."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Evaluations
from pytest_avo.core.ranking import geomean_gain
from pytest_avo.core.stats import Interval
from pytest_avo.evolution import promotion
from pytest_avo.evolution.campaign import Campaign
from pytest_avo.evolution.decision import Decision, decide
from pytest_avo.evolution.fixed_arm import Unshown, unshown
from pytest_avo.evolution.promotion import Provenance
from pytest_avo.evolution.trials import Candidate, Trials
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Purpose, Status
from pytest_avo.run.console import Console
from pytest_avo.run.settings import Settings

Promote = Callable[[Attempt, Interval, float], bool]
"""Whether a candidate is accepted, by a log-ratio and the noise floor."""
AS_CANDIDATE: tuple[Purpose, ...] = ("screen", "confirm")
"""What an incumbent was measured for while it was a candidate, the confirmation last; the seed has but the former."""
TOTAL_CONFIDENCE = 0.95
"""Confidence of the interval of how much faster than the seed a kernel is."""
Settled = Callable[[Attempt, AttemptOutcome], None]
"""Told of an attempt that has found its outcome, which is on disk."""


Promising = tuple[Candidate, Decision]
"""A candidate and what its screening found, a gain."""


class Settlement:
    """Decides what becomes of candidates. What is known is on disk before anything is built on it."""

    def __init__(
        self,
        settings: Settings,
        console: Console,
        campaign: Campaign,
        trials: Trials,
        *,
        promote: Promote,
        settled: Settled,
    ) -> None:
        self._settings = settings
        self._console = console
        self._campaign = campaign
        self._trials = trials
        self._accepts = promote
        self._settled = settled

    def is_promising(self, decision: Decision) -> bool:
        """Whether a screened candidate is worth to be measured once more."""
        if decision.gain is None or decision.ranking == "rejected":
            return False
        return decision.gain.estimate >= 0 if self._settings.accept == "match" else decision.ranking == "faster"

    def dismiss(self, candidate: Candidate, decision: Decision) -> None:
        """Settle a candidate that is not promising."""
        self.settle(candidate.attempt, status_of(decision), decision, since=candidate.since)

    def contest(self, promising: Sequence[Promising]) -> None:
        """Measure promising candidates once more, in fresh processes on fresh inputs: only this estimate is believed.

        Those that a sibling outdoes wait for what becomes of that: a child of their parent that gained more beyond
        doubt. Where it is confirmed they are not measured again, which took most of a population's time.
        """
        left, confirmed = list(promising), list[Promising]()
        while left:
            leaders = [each for each in left if not any(_outdoes(other, each) for other in left)]
            confirmed += self._confirm(leaders)
            waiting, left = [each for each in left if each not in leaders], []
            for each in waiting:
                victor = next((winner for winner, _ in filter(partial(_outdoes, other=each), confirmed)), None)
                if victor is None:
                    left.append(each)
                else:
                    self._lose(each, self._campaign.label(victor.attempt))

    def _lose(self, outdone: Promising, victor: str) -> None:
        """Settle a candidate that a confirmed sibling outdoes; victor: the generation of that."""
        candidate, screened = outdone
        lost = msgspec.structs.replace(screened, reason=f"faster than its parent, but slower than generation {victor}")
        self.settle(candidate.attempt, "slower", lost, since=candidate.since)

    def _confirm(self, promising: Sequence[Promising]) -> list[Promising]:
        """Measure candidates beside their parents at the same time and settle one after the other; who is confirmed."""
        # What only has to be no slower is no question of the floor.
        floor = None if self._settings.accept == "match" else self._campaign.floor
        trials = [self._trials.measure(each, "confirm", each.parent, floor=floor) for each, _ in promising]
        accepted = []
        for (candidate, screened), trial in zip(promising, trials, strict=True):
            evaluations = self._trials.finish(trial)
            confirmed = self._decide(evaluations)
            measured = [self._campaign.evaluated.of(candidate.attempt, "screen"), evaluations]
            if confirmed.gain is None:
                self.settle(candidate.attempt, status_of(confirmed), confirmed, since=candidate.since)
            elif refusal := self._refusal(candidate.attempt.parent, confirmed, measured):
                status: Literal["rejected", "ambiguous"] = "rejected" if refusal.is_sure else "ambiguous"
                refused = Decision(status, refusal.reason, screened.gain)
                since = candidate.since
                self.settle(candidate.attempt, status, refused, confirmed=confirmed.gain, since=since)
            elif self._is_accepted(candidate.attempt, confirmed.gain):
                self._land(candidate, screened, confirmed.gain, evaluations)
                accepted.append((candidate, screened))
            else:
                refused = msgspec.structs.replace(screened, reason="not confirmed in fresh processes")
                since = candidate.since
                self.settle(candidate.attempt, "ambiguous", refused, confirmed=confirmed.gain, since=since)
        return accepted

    def settle(
        self,
        attempt: Attempt,
        status: Status,
        decision: Decision,
        *,
        since: float,
        confirmed: Interval | None = None,
        landing: tuple[Attempt, Interval] | None = None,
    ) -> None:
        """Record an attempt's outcome, the last thing that is ever written about it, and say it."""
        outcome = AttemptOutcome(
            attempt.id,
            status,
            decision.reason,
            gain=decision.gain,
            confirmed=confirmed,
            over=landing[0].id if landing else None,
            landing=landing[1] if landing else None,
            seconds=time.monotonic() - since,
        )
        outcome = self._campaign.settle(outcome, attempt)
        parts = [f"generation {self._campaign.label(attempt)}: {status}"]
        if measured := confirmed or decision.gain:
            ratio = measured.exp()
            parts.append(f"{ratio.estimate:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}]")
        self._console.say("  ".join([*parts, decision.reason]).rstrip(), green=status == "promoted")
        self._settled(attempt, outcome)

    def _land(self, candidate: Candidate, screened: Decision, confirmed: Interval, evaluations: Evaluations) -> None:
        """Promote a confirmed candidate if it also beats what is in the file now, where that is not its parent."""
        campaign, attempt = self._campaign, candidate.attempt
        best = campaign.incumbent
        if attempt.parent == best.id:
            self._promote(candidate, screened, confirmed, over_seed=self._total(best, evaluations))
            return
        assert attempt.parent is not None
        scores = campaign.view.log_scores()
        score = scores[attempt.parent] + confirmed.estimate
        if score > scores[best.id]:
            # Scores add up errors along two chains: the two kernels themselves say which is faster.
            floor = None if self._settings.accept == "match" else campaign.floor
            trial = self._trials.measure(candidate, "land", campaign.kernel(best), floor=floor)
            landed = self._trials.finish(trial)
            landing = self._decide(landed)
            refused = landing.gain is None or self._refusal(best.id, landing, [landed])
            if landing.gain is not None and not refused and self._is_accepted(attempt, landing.gain):
                over_seed, beside = self._total(best, landed), (best, landing.gain)
                self._promote(candidate, screened, confirmed, over_seed=over_seed, landing=beside)
                return
        where = f"{math.exp(score):.2f}x the seed, the best is {math.exp(scores[best.id]):.2f}x"
        kept = msgspec.structs.replace(screened, reason=where)
        self.settle(attempt, "kept", kept, confirmed=confirmed, since=candidate.since)

    def _total(self, base: Attempt, beside: Evaluations) -> tuple[Interval, bool]:
        """How much faster than the seed a kernel is, a ratio at 95%, by its step over `base`; whether it is a product.

        It is none where the seed is the base. Errors of steps add up: what is told at the end of a run is measured.
        """
        step = geomean_gain(beside, self._campaign.plan.shapes, confidence=TOTAL_CONFIDENCE)
        known = self._campaign.total(base)
        if known is None:  # of a kernel in the file: it is the seed
            return step.exp(), False
        estimate = math.log(known.ratio) + step.estimate
        half = math.hypot(math.log(known.high / known.low) / 2, step.half_width)
        return Interval(estimate, estimate - half, estimate + half).exp(), True

    def _promote(
        self,
        candidate: Candidate,
        screened: Decision,
        confirmed: Interval,
        *,
        over_seed: tuple[Interval, bool],
        landing: tuple[Attempt, Interval] | None = None,
    ) -> None:
        """Write the winner into kernels/, then record that; killed in between, a resumed run does it again.

        over_seed: how much faster than the seed it is, and whether that is multiplied up.
        """
        campaign, path, attempt = self._campaign, self._campaign.plan.path, candidate.attempt
        promotion.check_unchanged(path, {campaign.incumbent.digest, attempt.digest})
        total, by_steps = over_seed
        provenance = campaign.provenance(attempt, confirmed=confirmed, over_seed=total.estimate)
        source = campaign.view.source(attempt.digest)
        promotion.promote(path, source, provenance, lock=self._settings.store / "promotion.lock")
        campaign.add_total(attempt, total, by_steps=by_steps)
        where = f"({total.estimate:.2f}x the seed{' by its steps' * by_steps}) now in {campaign.plan.name}"
        if self._settings.commit:
            where += f", {self._commit(provenance)}"
        decision = Decision("faster", where, screened.gain)
        self.settle(attempt, "promoted", decision, confirmed=confirmed, landing=landing, since=candidate.since)

    def _commit(self, provenance: Provenance) -> str:
        """What became of the commit: the promotion stands on disk, whatever git says."""
        try:
            return f"commit {promotion.commit(self._campaign.plan.path, provenance)}"
        except InvalidInput as error:
            self._console.warn(str(error))
            return "not committed"

    def _refusal(self, beside: int | None, decision: Decision, measurements: Sequence[Evaluations]) -> Unshown | None:
        """Why a gain over an attempt does not count, or None: for some inputs alone, or not believed.

        decision: from the last of the measurements beside it, which was in fresh processes.
        """
        if decision.ranking == "rejected":
            return Unshown(decision.reason, is_sure=True)
        if decision.doubt:
            return Unshown(decision.doubt, is_sure=False)
        assert beside is not None, "only the seed is beside nobody"
        campaign = self._campaign
        other = campaign.view.attempt(beside)
        then = [found for purpose in AS_CANDIDATE if (found := campaign.evaluated.of(other, purpose))]
        return unshown(measurements, then, campaign.plan.shapes, of_seed=other.parent is None)

    def _is_accepted(self, attempt: Attempt, measured: Interval) -> bool:
        return self._accepts(attempt, measured, self._campaign.floor)

    def _decide(self, evaluations: Evaluations) -> Decision:
        return decide(evaluations, self._campaign.plan.shapes, floor=self._campaign.floor)


def _outdoes(one: Promising, other: Promising) -> bool:
    """Whether a candidate's gain over the parent that both have lies above the other's, whole intervals apart."""
    (first, found), (second, beside) = one, other
    if found.gain is None or beside.gain is None or first.attempt.parent != second.attempt.parent:
        return False
    return first.attempt.island == second.attempt.island and found.gain.low > beside.gain.high


def status_of(decision: Decision) -> Status:
    """An attempt that was not promoted keeps what it was ranked as; one that looked faster was not confirmed."""
    return "ambiguous" if decision.ranking == "faster" else decision.ranking
