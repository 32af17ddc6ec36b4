"""What the user asked for, read: command line before environment before ini before default."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import msgspec
import pytest

from pytest_avo import PACKAGE
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Limits, TimingPlan
from pytest_avo.core.folder import FOLDER
from pytest_avo.core.kernel import TARGETS
from pytest_avo.core.shape import SuiteFolders
from pytest_avo.gate.gate_settings import GateSettings
from pytest_avo.gate.rules import parse_rules
from pytest_avo.gate.store import BASELINES, automatic_name, baseline_path
from pytest_avo.operators.agent.agent_settings import AgentSettings
from pytest_avo.operators.budget import Limits as Budget
from pytest_avo.operators.budget import Prices
from pytest_avo.run.settings import MODES, Mode, Settings

FILES = ("json", "bmf", "gab", "markdown")
"""Formats of results, by their options."""
INTERPRETED = "smoke"
"""The suite that the interpreter, which is slow, takes instead of those that the kernels claim."""


def read_settings(config: pytest.Config) -> Settings | None:
    """The settings of this run, or None when the user asked nothing of this plugin. InvalidInput for a wrong value."""
    option = config.option
    modes: dict[Mode, bool] = {
        "bench": option.avo_bench,
        "evolve": option.avo_evolve,
        "compile": option.avo_compile is not None,
        "interpret": option.avo_interpret,
        "selftest": option.avo_selftest,
        "aa": option.avo_aa,
        "serve": option.avo_serve is not None,
    }
    chosen: list[Mode] = [name for name in MODES if modes[name]]
    if not chosen:
        return None
    if len(chosen) > 1:
        raise InvalidInput(f"{' and '.join(f'--avo-{name}' for name in chosen)}: expected one of them")
    if option.avo_evolve and (getattr(option, "lf", False) or getattr(option, "failedfirst", False)):
        raise InvalidInput("--avo-evolve: does not go with --lf or --ff, its items are made while it runs")
    if option.avo_serve_for is not None and option.avo_serve is None:
        raise InvalidInput("--avo-serve-for: expected --avo-serve DIR too")
    if option.generations < 1:
        raise InvalidInput(f"--generations: expected a number of at least 1, got {option.generations}")
    if option.avo_population < 1:
        raise InvalidInput(f"--avo-population: expected a number of at least 1, got {option.avo_population}")
    if not 1 <= option.avo_islands <= option.avo_population:
        most = option.avo_population
        raise InvalidInput(
            f"--avo-islands: expected a number from 1 to the population, which is {most}, got {option.avo_islands}"
        )
    peers = _text(config, "avo_peers")
    agent = _agent(config)
    named = _text(config, "avo_operator")
    without_model = "" if named else _why_not_asked(agent)
    return Settings(
        mode=chosen[0],
        target=option.avo_compile or "",
        rootdir=config.rootpath,
        suites=_suite_folders(config.rootpath),
        shapes=_names(_text(config, "avo_shapes")) or ((INTERPRETED,) if option.avo_interpret else ()),
        peers=None if not peers else () if peers == "none" else _names(peers),
        limits=_limits(_text(config, "avo_limits")),
        plan=_plan(option.avo_max_rounds),
        sandbox=option.avo_sandbox,
        gate=_gate(config, chosen[0]),
        files={
            name: Path(os.path.abspath(path)) for name in FILES if (path := getattr(option, f"avo_{name}")) is not None
        },
        kernels=tuple(config.rootpath / folder for folder in config.getini("avo_kernels")),
        evolve=_kernel_per_target(config.getini("avo_evolve")),
        generations=option.generations,
        population=option.avo_population,
        islands=option.avo_islands,
        operator=named or ("agent" if (agent.model or agent.replay is not None) and not without_model else "tuner"),
        agent=agent,
        without_model=without_model,
        budget=_budget(config),
        prices=_prices(config),
        serve=None if option.avo_serve is None else Path(os.path.abspath(option.avo_serve)),
        serve_for_s=_duration_s("--avo-serve-for", option.avo_serve_for),
        submit=option.avo_submit or "",
        seed=option.avo_seed,
        accept=option.avo_accept,
        resume=option.avo_resume,
        commit=option.avo_commit,
    )


def _text(config: pytest.Config, name: str) -> str:
    """A text option: command line, then PYTEST_AVO_..., then ini."""
    given = getattr(config.option, name)
    if given is not None:
        return str(given)
    return os.environ.get(f"PYTEST_{name.upper()}") or str(config.getini(name))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _limits(text: str) -> Limits:
    expected = "expected PHASE=SECONDS for build, check or time, as in build=60,check=30"
    given: dict[str, float] = {}
    for part in _names(text):
        phase, _, seconds = part.partition("=")
        try:
            given[phase] = float(seconds)
        except ValueError:
            raise InvalidInput(f"--avo-limits: {part!r}: {expected}") from None
        if phase not in Limits.__struct_fields__ or not given[phase] > 0:
            raise InvalidInput(f"--avo-limits: {part!r}: {expected}")
    return Limits(**given)


def _plan(max_rounds: int | None) -> TimingPlan:
    if max_rounds is None:
        return TimingPlan()
    if max_rounds < 3:
        raise InvalidInput(f"--avo-max-rounds: expected at least 3, got {max_rounds}")
    default = TimingPlan()
    return msgspec.structs.replace(default, max_rounds=max_rounds, min_rounds=min(default.min_rounds, max_rounds))


def _gate(config: pytest.Config, mode: str) -> GateSettings:
    option = config.option
    names = ("compare", "compare_fail", "compare_lenient", "allow_mismatch", "save", "autosave")
    used = [f"--avo-{name.replace('_', '-')}" for name in names if getattr(option, f"avo_{name}")]
    if used and mode != "bench":
        raise InvalidInput(f"{used[0]}: goes with --avo-bench, not with --avo-{mode}")
    if option.avo_compare is None and (idle := [x for x in used if x not in ("--avo-save", "--avo-autosave")]):
        raise InvalidInput(f"{idle[0]}: expected --avo-compare too")
    if option.avo_save is not None and option.avo_autosave:
        raise InvalidInput("--avo-save and --avo-autosave: expected one of them")
    rules = parse_rules(option.avo_compare_fail, config.getini("avo_compare_fail"))
    known = _suite_folders(config.rootpath).names()
    if unknown := sorted(rules.suites - set(known)):
        expected = f"expected a kernel's path or one of the suites {', '.join(known)}"
        raise InvalidInput(f"ini key avo_compare_fail: {unknown[0]!r}: {expected}")
    folder = config.rootpath / FOLDER / BASELINES
    save = automatic_name(config.rootpath) if option.avo_autosave else option.avo_save
    return GateSettings(
        compare=option.avo_compare,
        rules=rules,
        lenient=option.avo_compare_lenient,
        allow_mismatch=option.avo_allow_mismatch,
        folder=folder,
        save=None if save is None else baseline_path(save, folder),
    )


def _agent(config: pytest.Config) -> AgentSettings:
    option = config.option
    for name, least in {
        "turns": 1,
        "stall": 1,
        "cycle": 2,
        "directions": 1,
        "context": 4000,
        "model_timeout": 1,
    }.items():
        if not getattr(option, f"avo_{name}") >= least:
            found = getattr(option, f"avo_{name}")
            raise InvalidInput(f"--avo-{name.replace('_', '-')}: expected at least {least}, got {found}")
    if option.avo_knowledge and option.avo_no_knowledge:
        raise InvalidInput("--avo-knowledge and --avo-no-knowledge: expected one of them")
    base_url = _text(config, "avo_base_url") or os.environ.get("OPENAI_BASE_URL") or None
    if base_url is not None and not re.fullmatch(r"https?://[^\s/?#]+([/?#]\S*)?", base_url):
        raise InvalidInput(f"--avo-base-url: expected a URL such as http://localhost:8000/v1, got {base_url!r}")
    return AgentSettings(
        model=_text(config, "avo_model"),
        base_url=base_url,
        model_timeout_s=option.avo_model_timeout,
        turns=option.avo_turns,
        context_tokens=option.avo_context,
        knowledge=tuple(Path(os.path.abspath(folder)) for folder in option.avo_knowledge),
        use_supervisor=not option.avo_no_supervisor,
        use_knowledge=not option.avo_no_knowledge,
        use_memory=not option.avo_no_memory,
        stall=option.avo_stall,
        cycle=option.avo_cycle,
        directions=option.avo_directions,
        replay=option.avo_replay,
    )


def _why_not_asked(agent: AgentSettings) -> str:
    """Why a model that is configured cannot be asked; "" where it can be, or its recorded answers, or there is none."""
    reachable = agent.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY")
    if not agent.model or agent.replay is not None or reachable:
        return ""
    return f"{agent.model} is not asked: OPENAI_API_KEY is not set, and no --avo-base-url names a server without keys"


def _budget(config: pytest.Config) -> Budget:
    option = config.option
    for name in ("avo_max_tokens", "avo_max_cost", "avo_max_evaluations"):
        if (value := getattr(option, name)) is not None and not (value > 0 and math.isfinite(value)):
            raise InvalidInput(f"--{name.replace('_', '-')}: expected a number above zero, got {value}")
    if option.avo_max_cost is not None and _prices(config) is None:
        raise InvalidInput("--avo-max-cost: expected the ini keys avo_price_input and avo_price_output too")
    return Budget(
        max_tokens=option.avo_max_tokens,
        max_cost=option.avo_max_cost,
        max_evaluations=option.avo_max_evaluations,
        max_time_s=_duration_s("--avo-max-time", option.avo_max_time),
    )


def _duration_s(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    if found is None or not float(found[1]) > 0:
        raise InvalidInput(f"{option}: expected a duration such as 90s, 30min or 2h, got {text!r}")
    return float(found[1]) * units[found[2]]


def _prices(config: pytest.Config) -> Prices | None:
    found: list[float] = []
    for name in ("avo_price_input", "avo_price_output"):
        text = str(config.getini(name)).strip()
        if not text:
            continue
        try:
            found.append(float(text))
        except ValueError:
            raise InvalidInput(f"ini key {name}: expected a price per million tokens, got {text!r}") from None
        if not (found[-1] >= 0 and math.isfinite(found[-1])):
            raise InvalidInput(f"ini key {name}: expected a price of at least zero, got {text!r}")
    if len(found) == 1:
        raise InvalidInput("ini keys avo_price_input and avo_price_output: expected both or neither")
    return Prices(input_per_million=found[0], output_per_million=found[1]) if found else None


def _kernel_per_target(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        target, colon, path = (part.strip() for part in line.partition(":"))
        if not colon or target not in TARGETS or not path:
            expected = f"expected 'TARGET: PATH' with a target of {', '.join(TARGETS)}"
            raise InvalidInput(f"ini key avo_evolve: {line!r}: {expected}")
        found[target] = path
    return found


def _suite_folders(rootdir: Path) -> SuiteFolders:
    shipped = (PACKAGE / "shapes", PACKAGE.parent / "shapes")  # in a wheel, in a checkout
    folders = [rootdir / "shapes", *shipped]
    return SuiteFolders(tuple(dict.fromkeys(folder for folder in folders if folder.is_dir())))
