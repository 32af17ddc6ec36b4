"""What the user asked for, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_avo.core.disk.folder import FOLDER
from pytest_avo.core.evaluation import Limits, TimingPlan
from pytest_avo.core.shape import SuiteFolders
from pytest_avo.gate.gate_settings import GateSettings
from pytest_avo.operators.agent_settings import AgentSettings
from pytest_avo.operators.budget import Budget, Prices
from pytest_avo.operators.external.external_settings import ExternalSettings
from pytest_avo.run.mode import Mode


@dataclass(frozen=True, slots=True)
class Settings:
    """All choices of a run. Paths are absolute."""

    mode: Mode
    target: str
    """The target of a compile report; all other modes take the machine's own."""
    rootdir: Path
    suites: SuiteFolders
    shapes: tuple[str, ...]
    """Suites that override the kernels' claims; empty: the claims hold."""
    transfer: bool
    """Whether an evolution on those suites begins with the best kernel of the last one."""
    peers: tuple[str, ...] | None
    """None: what the device offers."""
    limits: Limits
    plan: TimingPlan
    sandbox: Literal["auto", "require", "off"]
    gate: GateSettings
    files: dict[str, Path]
    """Results to write: format -> path."""
    live: bool
    """Serve the page of an evolution while it goes on."""
    kernels: tuple[Path, ...]
    evolve: dict[str, str]
    """Target -> kernel that a bare --avo-evolve takes."""
    generations: int
    population: int
    islands: int
    screen: tuple[str, ...]
    """Globs of the shapes that candidates are screened on; empty: on all."""
    operator: str
    agent: AgentSettings
    external: ExternalSettings
    directions: tuple[str, ...]
    """What members are to try, the first of them the first; `file:PATH` stands for the lines of a file."""
    without_model: str
    """Why the model that is configured is not asked, where the operator was left to the plugin; "" otherwise."""
    budget: Budget
    prices: Prices | None
    serve: Path | None
    """The spool to serve."""
    serve_for_s: float | None
    """None: until nothing is left."""
    submit: str
    """Command that starts a job which serves the spool; "" for none."""
    seed: int | None
    accept: Literal["faster", "match"]
    resume: bool
    commit: bool

    @property
    def store(self) -> Path:
        """Folder of the lineage and of all else that a run keeps."""
        return self.rootdir / FOLDER
