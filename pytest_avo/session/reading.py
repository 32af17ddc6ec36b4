"""What the user asked for, read: command line before environment before ini before default."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import msgspec
import pytest

from pytest_avo import PACKAGE
from pytest_avo.core.disk.folder import FOLDER
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Calls, Limits, TimingPlan
from pytest_avo.core.kernel import TARGETS
from pytest_avo.core.shape import SuiteFolders
from pytest_avo.evaluation.correctness.timed_kinds import TIMED_KINDS
from pytest_avo.gate.gate_settings import GateSettings
from pytest_avo.gate.refs import PREFIX
from pytest_avo.gate.rules import parse_rules
from pytest_avo.gate.store import BASELINES, automatic_name, baseline_path
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.budget import Budget, Prices
from pytest_avo.operators.directions import FILE, member_directions
from pytest_avo.operators.external.external_settings import STEP_TIME_S, WORK, ExternalSettings
from pytest_avo.report.catalogue import FORMATS
from pytest_avo.run.settings import Settings
from pytest_avo.session.options.choices import Choices, asked, chosen_mode
from pytest_avo.session.options.table import OPTIONS

LONGEST_S = 1e9
"""What is longer, the system cannot wait for."""
INTERPRETED = "smoke"
"""The suite that the interpreter, which is slow, takes instead of those that the kernels claim."""


def read_settings(config: pytest.Config) -> Settings | None:
    """The settings of this run, or None when the user asked nothing of this plugin. InvalidInput for a wrong value."""
    mode = chosen_mode(config)
    if mode is None:
        return None
    option = Choices(config, mode)
    option.refuse_foreign()
    if mode == "evolve" and (getattr(config.option, "lf", False) or getattr(config.option, "failedfirst", False)):
        raise InvalidInput("--avo-evolve: does not go with --lf or --ff, its items are made while it runs")
    population, islands = option.value("avo_population"), option.value("avo_islands")
    if not 1 <= islands <= population:
        expected = f"expected a number from 1 to the population, which is {population}"
        raise InvalidInput(f"--avo-islands: {expected}, got {islands}")
    peers = option.text("avo_peers")
    agent = _agent(option)
    named = option.text("avo_operator")
    without_model = "" if named else _why_not_asked(agent)
    operator = named or ("agent" if (agent.model or agent.replay is not None) and not without_model else "tuner")
    settings = Settings(
        mode=mode,
        target=option.text("avo_compile"),
        rootdir=config.rootpath,
        suites=_suite_folders(config.rootpath),
        shapes=_shapes(option, mode),
        transfer=bool(option.text("avo_transfer")),
        peers=None if not peers else () if peers == "none" else _names(peers),
        limits=_limits(option.text("avo_limits")),
        plan=_plan(option.value("avo_max_rounds"), option.value("avo_calls")),
        sandbox=option.value("avo_sandbox"),
        gate=_gate(option),
        files={
            each.name: _path(f"--avo-{each.name}", path)
            for each in FORMATS
            if (path := option.value(f"avo_{each.name}")) is not None
        },
        live=option.value("avo_live"),
        kernels=tuple(config.rootpath / folder for folder in config.getini("avo_kernels")),
        evolve=_kernel_per_target(config.getini("avo_evolve")),
        generations=option.value("generations"),
        population=population,
        islands=islands,
        screen=_names(option.text("avo_screen")),
        operator=operator,
        agent=agent,
        external=_external(option),
        directions=_directions(option.value("avo_direction")),
        without_model=without_model,
        budget=_budget(option),
        prices=_prices(config),
        serve=None if (served := option.value("avo_serve")) is None else _path("--avo-serve", served),
        serve_for_s=_duration_s("--avo-serve-for", option.value("avo_serve_for")),
        submit=option.text("avo_submit"),
        seed=option.value("avo_seed"),
        accept=option.value("avo_accept"),
        resume=option.value("avo_resume"),
        commit=option.value("avo_commit"),
    )
    if mode == "evolve" and not without_model:
        option.refuse_foreign_to(operator, why="" if named else "the default where no model is configured")
    return settings


def _shapes(option: Choices, mode: str) -> tuple[str, ...]:
    """The suites that the user named, for what they claim or for what they do not."""
    transfer, suites = _names(option.text("avo_transfer")), _names(option.text("avo_shapes"))
    if transfer and suites:
        raise InvalidInput("--avo-transfer: names the suites itself, expected no --avo-shapes")
    return transfer or suites or ((INTERPRETED,) if mode == "interpret" else ())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _path(flag: str, text: str) -> Path:
    """The path that an option gives; InvalidInput for "", as of an empty variable: that never means this folder."""
    if not text:
        raise InvalidInput(f"{flag}: expected a path, got ''")
    return Path(os.path.abspath(text))


def _limits(text: str) -> Limits:
    expected = "expected PHASE=SECONDS for build, check or time, as in build=60,check=30"
    given: dict[str, float] = {}
    for part in _names(text):
        phase, _, seconds = part.partition("=")
        try:
            given[phase] = float(seconds)
        except ValueError:
            raise InvalidInput(f"--avo-limits: {part!r}: {expected}") from None
        if phase not in Limits.__struct_fields__ or not 0 < given[phase] <= LONGEST_S:
            raise InvalidInput(f"--avo-limits: {part!r}: {expected}")
    return Limits(**given)


def _plan(max_rounds: int | None, calls: Calls) -> TimingPlan:
    default = TimingPlan(calls=calls)
    if max_rounds is None:
        return default
    return msgspec.structs.replace(default, max_rounds=max_rounds, min_rounds=min(default.min_rounds, max_rounds))


def _gate(option: Choices) -> GateSettings:
    config = option.config
    rivals = ("avo_compare_fail", "avo_compare_lenient", "avo_allow_mismatch")
    compare, save = option.value("avo_compare"), option.value("avo_save")
    if compare is None and (idle := [OPTIONS[name].flag for name in rivals if option.value(name)]):
        raise InvalidInput(f"{idle[0]}: expected --avo-compare too")
    if save is not None and option.value("avo_autosave"):
        raise InvalidInput("--avo-save and --avo-autosave: expected one of them")
    if option.mode == "compile" and compare is not None and not compare.startswith(PREFIX):
        if OPTIONS["avo_compare"] in asked(config):
            raise InvalidInput(f"--avo-compare: expected git:REF with --avo-compile, got {compare!r}")
        compare = None  # a project's default for its benches
    rules = parse_rules(option.value("avo_compare_fail"), config.getini("avo_compare_fail"))
    known = _suite_folders(config.rootpath).names()
    if unknown := sorted(rules.suites - set(known)):
        expected = f"expected a kernel's path or one of the suites {', '.join(known)}"
        raise InvalidInput(f"ini key avo_compare_fail: {unknown[0]!r}: {expected}")
    folder = config.rootpath / FOLDER / BASELINES
    save = automatic_name(config.rootpath) if option.value("avo_autosave") else save
    return GateSettings(
        compare=compare,
        rules=rules,
        lenient=option.value("avo_compare_lenient"),
        allow_mismatch=option.value("avo_allow_mismatch"),
        folder=folder,
        save=None if save is None else baseline_path(save, folder),
    )


def _agent(option: Choices) -> AgentSettings:
    if option.value("avo_knowledge") and option.value("avo_no_knowledge"):
        raise InvalidInput("--avo-knowledge and --avo-no-knowledge: expected one of them")
    base_url = option.text("avo_base_url") or os.environ.get("OPENAI_BASE_URL") or None
    if base_url is not None and not re.fullmatch(r"https?://[^\s/?#]+([/?#]\S*)?", base_url):
        raise InvalidInput(f"--avo-base-url: expected a URL such as http://localhost:8000/v1, got {base_url!r}")
    return AgentSettings(
        model=option.text("avo_model"),
        base_url=base_url,
        model_timeout_s=option.value("avo_model_timeout"),
        turns=option.value("avo_turns"),
        context_tokens=option.value("avo_context"),
        knowledge=tuple(_path("--avo-knowledge", folder) for folder in option.value("avo_knowledge")),
        use_supervisor=not option.value("avo_no_supervisor"),
        use_knowledge=not option.value("avo_no_knowledge"),
        use_memory=not option.value("avo_no_memory"),
        stall=option.value("avo_stall"),
        cycle=option.value("avo_cycle"),
        directions=option.value("avo_directions"),
        replay=option.value("avo_replay"),
    )


def _external(option: Choices) -> ExternalSettings:
    inbox = option.value("avo_inbox")
    return ExternalSettings(
        agent=option.text("avo_agent"),
        step_time_s=_duration_s("--avo-step-time", option.value("avo_step_time")) or STEP_TIME_S,
        inbox=None if inbox is None else _path("--avo-inbox", inbox),
        work=option.config.rootpath / WORK,
    )


def _directions(given: list[str]) -> tuple[str, ...]:
    """Directions as they were given; InvalidInput now for a file that cannot be read later."""
    found = tuple(_absolute(each) if each.startswith(FILE) else each for each in given)
    if given and not member_directions(found):
        raise InvalidInput("--avo-direction: expected a sentence, or file:PATH with a sentence in each line")
    return found


def _absolute(direction: str) -> str:
    return FILE + os.path.abspath(direction.removeprefix(FILE))


def _why_not_asked(agent: AgentSettings) -> str:
    """Why a model that is configured cannot be asked; "" where it can be, or its recorded answers, or there is none."""
    reachable = agent.base_url or os.environ.get("OPENAI_API_KEY")
    if not agent.model or agent.replay is not None or reachable:
        return ""
    return f"{agent.model} is not asked: OPENAI_API_KEY is not set, and no --avo-base-url names a server without keys"


def _budget(option: Choices) -> Budget:
    cost = option.value("avo_max_cost")
    if cost is not None and not (cost > 0 and math.isfinite(cost)):
        raise InvalidInput(f"--avo-max-cost: expected a number above zero, got {cost}")
    if cost is not None and _prices(option.config) is None:
        raise InvalidInput("--avo-max-cost: expected the ini keys avo_price_input and avo_price_output too")
    return Budget(
        max_tokens=option.value("avo_max_tokens"),
        max_cost=cost,
        max_evaluations=option.value("avo_max_evaluations"),
        max_time_s=_duration_s("--avo-max-time", option.value("avo_max_time")),
    )


def _duration_s(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    seconds = 0.0 if found is None else float(found[1]) * units[found[2]]
    if not 0 < seconds <= LONGEST_S:
        raise InvalidInput(f"{option}: expected a duration such as 90s, 30min or 2h, got {text!r}")
    return seconds


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
    present = tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))
    return SuiteFolders(present, input_kinds=tuple(TIMED_KINDS))
