"""The plan of an evolution: what it is asked for, and what of that the lineage keeps, for comparing runs."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from pytest_avo import __version__
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.fingerprint import Fingerprint, differences
from pytest_avo.core.kernel import spelled_out
from pytest_avo.core.shape import Shape
from pytest_avo.lineage.records import Run
from pytest_avo.operators.operator import VariationOperator
from pytest_avo.run.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evolution is asked for."""

    path: Path
    rootdir: Path
    folder: Path
    """Where the lineage is kept."""
    shapes: tuple[Shape, ...]
    target: str
    fingerprint: Fingerprint
    operator: str
    seed: int | None
    generations: int
    population: int = 1
    islands: int = 1
    peers: tuple[str, ...] = ()
    """What candidates are timed beside, besides their parents."""
    fixed: str = ""
    """The peer that comparisons have in common."""
    transfer: bool = False
    """Whether a new run begins with the best kernel of the last one."""
    screened: tuple[Shape, ...] = ()
    """The shapes that candidates are screened on, where those are not all; winners are confirmed on all."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """What else makes the run what it is."""

    @property
    def settings(self) -> dict[str, str]:
        """What the lineage keeps of a run's size, and of all else that it was asked for."""
        return {
            **self.conditions,
            "generations": str(self.generations),
            "population": str(self.population),
            "islands": str(self.islands),
            "screen": ",".join(shape.id for shape in self.screened),
        }

    @property
    def screened_beside(self) -> tuple[str, ...]:
        """The peers that candidates are screened beside; the seed and winners are timed beside all."""
        return self.peers[:1]

    @property
    def screen(self) -> tuple[Shape, ...]:
        """The shapes that candidates are screened on."""
        return self.screened or self.shapes

    def going_on_with(self, run: Run) -> Plan:
        """The plan with the shapes in a run's order; InvalidInput where to go on would mix what must not be mixed."""
        if found := differences(self.fingerprint, run.fingerprint):
            raise InvalidInput(f"--avo-resume: run {run.id} was measured elsewhere ({'; '.join(found)})")
        shapes = {shape.id: shape for shape in self.shapes}
        if set(run.shapes) != set(shapes):
            raise InvalidInput(f"--avo-resume: run {run.id} evolved on other shapes: {', '.join(run.shapes)}")
        for option in ("population", "islands"):
            if (size := run.settings.get(option, "1")) != self.settings[option]:
                raise InvalidInput(f"--avo-resume: run {run.id} has --avo-{option}={size}, got {self.settings[option]}")
        screened = run.settings.get("screen", "")
        if set(screened.split(",")) != set(self.settings["screen"].split(",")):
            raise InvalidInput(f"--avo-resume: run {run.id} was screened on {screened or 'all shapes'}")
        return replace(self, shapes=tuple(shapes[shape] for shape in run.shapes))

    @property
    def name(self) -> str:
        """The kernel's path as lineage and commands have it."""
        if self.path.is_relative_to(self.rootdir):
            return spelled_out(self.path.relative_to(self.rootdir).as_posix())
        return spelled_out(str(self.path))


def matching(shapes: Sequence[Shape], globs: Sequence[str]) -> tuple[Shape, ...]:
    """The shapes whose ids match one of the globs; InvalidInput names a glob that matches none."""
    for glob in globs:
        if not fnmatch.filter([shape.id for shape in shapes], glob):
            known = ", ".join(shape.id for shape in shapes)
            raise InvalidInput(f"--avo-screen: {glob!r} matches none of the shapes: expected some of {known}")
    return tuple(shape for shape in shapes if any(fnmatch.fnmatchcase(shape.id, glob) for glob in globs))


def conditions(settings: Settings, operator: VariationOperator) -> dict[str, str]:
    """What makes a run what it is, beside its kernel, shapes and device: choices by their options' names, as text.

    What was left out or switched off is left out.
    """
    agent, budget, prices = settings.agent, settings.budget, settings.prices
    found: dict[str, object] = {
        "plugin": __version__,
        "operator": operator.describe(),
        "named-operator": settings.operator,
        "model": agent.model,
        "base-url": _host(agent.base_url or ""),
        "turns": agent.turns,
        "context": agent.context_tokens,
        "model-timeout": agent.model_timeout_s,
        "knowledge": ",".join(_shown(folder, settings.rootdir) for folder in agent.knowledge),
        "no-knowledge": not agent.use_knowledge,
        "no-memory": not agent.use_memory,
        "no-supervisor": not agent.use_supervisor,
        "stall": agent.stall,
        "cycle": agent.cycle,
        "directions": agent.directions,
        "replay": agent.replay,
        "agent": settings.external.agent,
        "step-time-s": settings.external.step_time_s,
        "told": "; ".join(settings.directions),
        "max-tokens": budget.max_tokens,
        "max-cost": budget.max_cost,
        "max-time-s": budget.max_time_s,
        "max-evaluations": budget.max_evaluations,
        "price-input": prices.input_per_million if prices else None,
        "price-output": prices.output_per_million if prices else None,
        "calls": "" if settings.plan.calls == "graph" else settings.plan.calls,
        "max-rounds": settings.plan.max_rounds,
        "limits": f"build={settings.limits.build:g},check={settings.limits.check:g},time={settings.limits.time:g}",
        "accept": settings.accept,
        "sandbox": settings.sandbox,
        "commit": settings.commit,
    }
    return {name: _text(value) for name, value in found.items() if value not in (None, "", False)}


def changes(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """What a resumed run does otherwise than it did before, by name; "" for what is not chosen any more."""
    return {name: now.get(name, "") for name in sorted(before | now) if before.get(name, "") != now.get(name, "")}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _host(url: str) -> str:
    """A server without what an address may hold of a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else ""


def _shown(folder: Path, rootdir: Path) -> str:
    return folder.relative_to(rootdir).as_posix() if folder.is_relative_to(rootdir) else str(folder)
