"""Options of an evolution: its size, its operator, its budget, and the model that an operator asks."""

from __future__ import annotations

from functools import partial

from pytest_avo.evolution.selection import MIGRATION_INTERVAL
from pytest_avo.operators import agent_settings
from pytest_avo.operators.external.external_settings import STEP_TIME_S
from pytest_avo.run.mode import Mode
from pytest_avo.session.options.option import Option

EVOLVE: tuple[Mode, ...] = ("evolve",)
ASKING = ("agent", "oneshot")
"""Operators that ask a model."""
CODING_AGENT, INBOX = "coding-agent", "inbox"
ANY_OTHER = "MODULE:ATTRIBUTE"
"""Stands for every operator that the user brings."""

_evolution = partial(Option, section="evolution", modes=EVOLVE)
_budget = partial(Option, section="budget", modes=EVOLVE)
_model = partial(Option, section="model", modes=EVOLVE, operators=ASKING)
_known = partial(Option, section="model", modes=EVOLVE, operators=(*ASKING, CODING_AGENT))
_agent = partial(Option, section="model", modes=EVOLVE, operators=("agent",))

EVOLUTION = (
    _evolution(
        flag="--generations",
        alias="--avo-generations",
        kind="whole",
        default=20,
        least=1,
        metavar="N",
        help="Variation attempts of an evolution, the seed not counted (default: {default})",
    ),
    _evolution(
        flag="--avo-population",
        kind="whole",
        default=1,
        least=1,
        metavar="K",
        help="Variation attempts that each generation makes at the same time (default: {default})",
    ),
    _evolution(
        flag="--avo-islands",
        kind="whole",
        default=1,
        metavar="N",
        help="Islands that the population lives on, each varying its own best kernels; every "
        f"{MIGRATION_INTERVAL} generations the best of each comes to the next one (default: {{default}})",
    ),
    _evolution(
        flag="--avo-screen",
        metavar="GLOB[,GLOB]",
        help="Screen candidates on the shapes whose ids match, as in '*-q4096-*'; a winner is confirmed on all of them "
        "(default: screen on all)",
    ),
    _evolution(
        flag="--avo-transfer",
        metavar="SUITE[,SUITE]",
        help="Go on, in a run of its own, with the best kernel of the file's last evolution on these suites instead of "
        "those that it was evolved on, as the paper carries multi-head attention to grouped-query attention",
    ),
    _evolution(
        flag="--avo-operator",
        metavar="NAME",
        has_ini=True,
        help="What proposes variants: 'agent' (a model with tools), 'oneshot' (the same model, one answer, no tools), "
        "'tuner' (embedded, no model), 'coding-agent' (--avo-agent in a folder of its own), 'inbox' (files from "
        "--avo-inbox), or MODULE:ATTRIBUTE (default: agent where --avo-model names a model and "
        "OPENAI_API_KEY or --avo-base-url says how to reach it, else tuner)",
    ),
    _evolution(
        flag="--avo-seed",
        kind="whole",
        metavar="N",
        help="Seed of the operator's choices (default: drawn and recorded). Inputs are always drawn afresh",
    ),
    _evolution(
        flag="--avo-accept",
        choices=("faster", "match"),
        default="faster",
        help="Promote a candidate that is faster beyond noise, or also one that is no slower, as the paper does "
        "(default: {default})",
    ),
    _evolution(
        flag="--avo-resume",
        kind="switch",
        help="Continue the kernel's last evolution where it stopped",
    ),
    _evolution(
        flag="--avo-commit",
        kind="switch",
        help="Commit every promoted kernel to git, with its scores in the message's trailers",
    ),
)
BUDGET = (
    _budget(
        flag="--avo-max-tokens",
        kind="whole",
        least=1,
        metavar="N",
        operators=(*ASKING, CODING_AGENT, ANY_OTHER),
        help="Stop before input and output tokens together pass N",
    ),
    _budget(
        flag="--avo-max-cost",
        kind="decimal",
        metavar="X",
        operators=(*ASKING, CODING_AGENT, ANY_OTHER),
        help="Stop before the cost passes X; needs the ini keys avo_price_input and avo_price_output",
    ),
    _budget(
        flag="--avo-max-evaluations",
        kind="whole",
        least=1,
        metavar="N",
        help="Stop before drafts and candidates together have been tried on N shapes, the seed not counted: the same "
        "budget for different operators",
    ),
    _budget(
        flag="--avo-max-time",
        metavar="T",
        help="Stop before the run takes longer than T, as in 90s, 30min, 2h",
    ),
)
OUTSIDE = (
    _evolution(
        flag="--avo-agent",
        metavar="NAME|COMMAND",
        has_ini=True,
        operators=(CODING_AGENT,),
        help="Agent that works in a member's folder: claude, codex, gemini, opencode, mini-swe-agent, any command "
        "('{prompt}' in it stands for the task), or 'wait' for whoever works there until `avo submit`",
    ),
    _evolution(
        flag="--avo-step-time",
        metavar="T",
        operators=(CODING_AGENT,),
        help=f"End the agent's step after T, with the best draft of it (default: {STEP_TIME_S / 3600:g}h)",
    ),
    _evolution(
        flag="--avo-inbox",
        metavar="DIR",
        operators=(INBOX,),
        help="Folder that candidates come from: NAME.py, and NAME.json with hypothesis and predicted",
    ),
    _evolution(
        flag="--avo-direction",
        kind="texts",
        metavar="TEXT|file:PATH",
        operators=(*ASKING, CODING_AGENT, ANY_OTHER),
        help="What a member of the population is to try, in a sentence, or a file with one in each line, read anew in "
        "each generation; can be given several times: the first is member 0's, and so on, then from the first again",
    ),
)
MODEL = (
    _known(
        flag="--avo-model",
        metavar="NAME",
        has_ini=True,
        help="Model of the agent, by the name that its server knows",
    ),
    _model(
        flag="--avo-base-url",
        metavar="URL",
        has_ini=True,
        help="Server that speaks chat completions with tools (default: OpenAI's). A key comes from OPENAI_API_KEY only",
    ),
    _model(
        flag="--avo-model-timeout",
        kind="decimal",
        default=agent_settings.MODEL_TIMEOUT_S,
        least=1,
        metavar="S",
        help="Seconds for one answer, retries included (default: {default})",
    ),
    _agent(
        flag="--avo-turns",
        kind="whole",
        default=agent_settings.TURNS,
        least=1,
        metavar="N",
        help="Answers of the model in one step, at most (default: {default})",
    ),
    _model(
        flag="--avo-context",
        kind="whole",
        default=agent_settings.CONTEXT_TOKENS,
        least=4000,
        metavar="TOKENS",
        help="Shorten old tool output when a conversation is longer than this (default: {default})",
    ),
    _known(
        flag="--avo-knowledge",
        kind="texts",
        metavar="DIR",
        help="Add a folder of texts to what the agent can look up; can be given several times",
    ),
    _known(
        flag="--avo-no-knowledge",
        kind="switch",
        help="Give the agent no knowledge base",
    ),
    _known(
        flag="--avo-no-memory",
        kind="switch",
        help="Keep lessons and rejected attempts from the agent",
    ),
    _model(
        flag="--avo-no-supervisor",
        kind="switch",
        help="Never step in when the agent makes no progress",
    ),
    _model(
        flag="--avo-stall",
        kind="whole",
        default=agent_settings.STALL,
        least=1,
        metavar="N",
        help="Step in after N attempts without a commit (default: {default})",
    ),
    _model(
        flag="--avo-cycle",
        kind="whole",
        default=agent_settings.CYCLE,
        least=2,
        metavar="N",
        help="Step in after N attempts in a row that are near-duplicates or fail the same way (default: {default})",
    ),
    _model(
        flag="--avo-directions",
        kind="whole",
        default=agent_settings.DIRECTIONS,
        least=1,
        metavar="N",
        help="Directions that the supervisor gives each time (default: {default})",
    ),
    _model(
        flag="--avo-replay",
        kind="whole",
        metavar="RUN",
        help="Give the recorded answers of this run instead of asking a model: no network, no cost",
    ),
)
