"""What makes a run what it is, beside its kernel, shapes and device: kept in the lineage, for comparing runs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pytest_avo import __version__
from pytest_avo.operators.operator import VariationOperator
from pytest_avo.run.settings import Settings


def conditions(settings: Settings, operator: VariationOperator) -> dict[str, str]:
    """The choices of a run by their options' names, as text; what was left out or switched off is left out."""
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
        "agent": settings.doors.agent,
        "step-time-s": settings.doors.step_time_s,
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
