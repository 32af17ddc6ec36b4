"""One evolution of one kernel as its lineage has it: opened or resumed, attempt by attempt, until its end."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Evaluations
from pytest_avo.core.kernel import Kernel, parse_kernel
from pytest_avo.core.ranking import noise_floor
from pytest_avo.core.source import source_digest
from pytest_avo.core.stats import Interval
from pytest_avo.evolution.plan import Plan, changes
from pytest_avo.evolution.promotion import Provenance, check_unchanged, transferred
from pytest_avo.evolution.selection import Contender, island_of, parents
from pytest_avo.lineage import view as lineage_view
from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.evaluated import Evaluated
from pytest_avo.lineage.events import Fact, NoiseFloor, Price, Resumed, SeedComparison
from pytest_avo.lineage.records import Attempt, AttemptOutcome, Run
from pytest_avo.lineage.run_lock import hold
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View
from pytest_avo.operators.knowledge.programs import Programs
from pytest_avo.operators.operator import Proposal


class Campaign:
    """A run of the lineage with its two sides, writing and reading."""

    def __init__(self, plan: Plan, store: Store, run: Run) -> None:
        self.plan = plan
        self.store = store
        self.run = run
        self.view = View(store.path, run.id)
        self.evaluated = Evaluated(self.view)
        self._programs = Programs(self.view)
        self._held: int | None = None

    @classmethod
    def begin(cls, plan: Plan, kernel: Kernel) -> Campaign:
        """Start a new run with the kernel's present text as its seed."""
        path = plan.folder / FILE
        origin = transferred(path, kernel=plan.name, path=plan.path) if plan.transfer else None
        store = Store.open(path)
        run = store.start_run(
            kernel=plan.name,
            target=plan.target,
            operator=plan.operator,
            seed=random.SystemRandom().randrange(2**31) if plan.seed is None else plan.seed,
            shapes=tuple(shape.id for shape in plan.shapes),
            fingerprint=plan.fingerprint,
            settings=plan.settings if origin is None else {**plan.settings, "transfer": origin.label},
        )
        campaign = cls(plan, store, run)
        campaign._hold()
        seed = "the seed" if origin is None else f"the seed, {origin.label}: {origin.hypothesis}"
        campaign._add(kernel.source, generation=0, member=0, parent=None, hypothesis=seed, predicted={})
        return campaign

    @classmethod
    def resume(cls, plan: Plan) -> Campaign:
        """Continue the kernel's last run; InvalidInput where that would mix what must not be mixed."""
        path = plan.folder / FILE
        run = lineage_view.latest_run(path, plan.name) if path.is_file() else None
        if run is None:
            raise InvalidInput(f"--avo-resume: expected a run of {plan.name} in {path}, there is none")
        plan = plan.going_on_with(run)
        campaign = cls(plan, Store.open(path), run)
        # A winner may have landed in the file just before the run was killed.
        known = [campaign.incumbent, *campaign.view.unfinished()]
        try:
            check_unchanged(plan.path, {attempt.digest for attempt in known})
            campaign._hold()
        except InvalidInput:
            campaign.close()
            raise
        resumed = campaign.view.events(Resumed)
        before = resumed[-1].fact.settings if resumed else run.settings
        campaign.record(Resumed(dict(plan.settings), dict(changes(before, plan.settings))))
        return campaign

    @property
    def incumbent(self) -> Attempt:
        """The attempt that all new ones have to beat."""
        found = self.view.incumbent()
        assert found is not None, "a run begins with its seed"
        return found

    @property
    def has_floor(self) -> bool:
        """Whether the seed was found good and its noise measured."""
        return bool(self.view.events(NoiseFloor))

    @property
    def floor(self) -> float:
        """The noise floor that was measured at the start of this run, a log-ratio."""
        floors = self.view.events(NoiseFloor)
        assert floors, "the seed is measured first"
        return floors[-1].fact.floor

    def kernel(self, attempt: Attempt) -> Kernel:
        """An attempt's source as a kernel of the evolved file; a variant that broke its declarations has a `fault`."""
        kernel, seed = (
            _parsed(self.view.source(each.digest), self.plan.path) for each in (attempt, self.view.attempts()[0])
        )
        if kernel.fault or kernel.claim == seed.claim:
            return kernel
        fault = "changes what the kernel claims: AVO must stay as it is"
        return Kernel(path=kernel.path, source=kernel.source, claim=None, tunables=(), fault=fault)

    def members(self, generation: int) -> dict[int, Attempt]:
        """The attempts of a generation that are recorded by now."""
        return {attempt.member: attempt for attempt in self.view.attempts() if attempt.generation == generation}

    def parents(self, generation: int) -> dict[int, Attempt]:
        """What each member of a generation is to vary: a matter of the generations before it alone."""
        attempts, outcomes = {x.id: x for x in self.view.attempts()}, self.view.outcomes()
        scores = self.view.log_scores()
        seed, *confirmed = [
            Contender(
                attempt=attempt.id,
                generation=attempt.generation,
                island=attempt.island,
                score=scores[attempt.id],
                promoted=outcome.status != "kept",
            )
            for outcome in outcomes.values()
            if outcome.status in ("seed", "promoted", "kept")
            for attempt in [attempts[outcome.attempt]]
        ]
        chosen = parents(
            seed,
            confirmed,
            generation=generation,
            population=self.plan.population,
            islands=self.plan.islands,
            run_seed=self.run.seed,
        )
        return {member: attempts[one.attempt] for member, one in enumerate(chosen)}

    def label(self, attempt: Attempt) -> str:
        """What an attempt is called: by its generation, and its member where there are several."""
        return f"{attempt.generation}.{attempt.member}" if self.plan.population > 1 else str(attempt.generation)

    def prefix(self, attempt: Attempt) -> str:
        """What the names of an attempt's items begin with."""
        member = f"m{attempt.member}" if self.plan.population > 1 and attempt.generation else ""
        return f"gen{attempt.generation:04d}{member}-"

    def measure_noise(self, attempt: Attempt, comparisons: Sequence[Evaluations]) -> None:
        """Record the noise floor from the seed's comparisons with itself: what shows in all of them."""
        floor = min(noise_floor(each, self.plan.shapes) for each in comparisons)
        self.record(NoiseFloor(floor))
        self.store.add_outcome(AttemptOutcome(attempt.id, "seed"))

    def add(
        self, proposal: Proposal, *, generation: int, member: int, parent: Attempt
    ) -> tuple[Attempt, Attempt | None]:
        """Record a proposal; also the earlier attempt that is the same program, whatever its comments, if there is."""
        earlier = self.view.find_by_digest(source_digest(proposal.source)) or self._programs.find(proposal.source)
        # Before the attempt: killed in between, it is proposed again and this event is not the last of its kind.
        self.record(
            Price(
                generation=generation,
                member=member,
                tokens_in=proposal.tokens_in,
                tokens_out=proposal.tokens_out,
                cost=proposal.cost,
                lesson=proposal.lesson,
            )
        )
        attempt = self._add(
            proposal.source,
            generation=generation,
            member=member,
            parent=parent.id,
            hypothesis=proposal.hypothesis,
            predicted=dict(proposal.predicted),
        )
        return attempt, earlier

    def settle(self, outcome: AttemptOutcome, attempt: Attempt) -> AttemptOutcome:
        """Record an outcome, the last thing that is ever written about an attempt, with what its proposal cost."""
        prices = [event.fact for event in self.view.events(Price)]
        whose = attempt.generation, attempt.member
        price = next((x for x in reversed(prices) if (x.generation, x.member) == whose), None)
        if price is not None:
            outcome = msgspec.structs.replace(
                outcome,
                lesson=price.lesson,
                tokens_in=price.tokens_in,
                tokens_out=price.tokens_out,
                cost=price.cost,
            )
        self.store.add_outcome(outcome)
        return outcome

    def provenance(self, attempt: Attempt, *, confirmed: Interval, over_seed: float) -> Provenance:
        """What the head of the promoted file says. over_seed: time of the seed / its time."""
        assert attempt.parent is not None
        return Provenance(
            digest=attempt.digest,
            parent=self.view.attempt(attempt.parent).digest,
            run=self.run.id,
            generation=attempt.generation,
            operator=attempt.operator,
            hypothesis=attempt.hypothesis,
            over_parent=confirmed.exp(),
            over_seed=over_seed,
            device=self.plan.fingerprint.device,
            torch=self.plan.fingerprint.torch,
        )

    def total(self, attempt: Attempt) -> SeedComparison | None:
        """How much faster an attempt's kernel is than the seed, as known last; None of one that was not promoted."""
        facts = [event.fact for event in self.view.events(SeedComparison)]
        found = [fact for fact in facts if fact.attempt == attempt.id]
        return found[-1] if found else None

    def add_total(self, attempt: Attempt, ratio: Interval, *, by_steps: bool = False) -> None:
        """Record how much faster an attempt's kernel is than the seed."""
        self.record(SeedComparison(ratio.estimate, ratio.low, ratio.high, attempt.id, by_steps))

    def record(self, fact: Fact) -> None:
        """Add an event to the lineage."""
        self.store.add_event(self.run.id, fact)

    def close(self) -> None:
        self.view.close()
        self.store.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _hold(self) -> None:
        """Keep others from going on with the run while this process does: each would propose and evaluate it all."""
        self._held = hold(self.store.path, self.run.id)

    def _add(
        self,
        source: str,
        *,
        generation: int,
        member: int,
        parent: int | None,
        hypothesis: str,
        predicted: Mapping[str, float],
    ) -> Attempt:
        return self.store.add_attempt(
            run=self.run.id,
            generation=generation,
            member=member,
            island=island_of(member, self.plan.islands),
            parent=parent,
            source=source,
            operator=self.plan.operator,
            hypothesis=hypothesis,
            predicted=dict(predicted),
        )


@lru_cache(maxsize=64)
def _parsed(source: str, path: Path) -> Kernel:
    """Kept: parents, seed and candidates are wanted several times for every proposal, 15 to 50 ms each time."""
    try:
        return parse_kernel(source, path=path)
    except InvalidInput as error:
        return Kernel(path=path, source=source, claim=None, tunables=(), fault=str(error))
