"""Command line options and ini keys.

Rules for help texts: capital letter, no full stop for a single phrase, defaults named. Values stay plain strings and
numbers, because xdist sends them to its workers; settings.py makes values of them.
"""

from __future__ import annotations

import pytest

from pytest_avo.evolution.selection import MIGRATION_INTERVAL
from pytest_avo.operators.agent import agent_settings

GROUP = "avo"
DEFAULT_GENERATIONS = 20


def add_options(parser: pytest.Parser) -> None:
    """Register everything that a user can set."""
    group = parser.getgroup(GROUP, "evaluation and evolution of attention kernels")
    group.addoption(
        "--avo-bench",
        action="store_true",
        help="Check and time kernels: every kernel file below the given paths (default: the ini key avo_kernels) on "
        "every shape that it claims, beside its peers",
    )
    group.addoption(
        "--avo-evolve",
        action="store_true",
        help="Evolve one kernel: the given file, or the one that the ini key avo_evolve names for this machine",
    )
    group.addoption(
        "--avo-compile",
        nargs="?",
        const="sm90",
        metavar="TARGET",
        help="Report what kernels for TARGET compile to, without its GPU: registers, spills, shared memory, wgmma. "
        "Fails on spills, serialised wgmma and too much shared memory (default: sm90)",
    )
    group.addoption(
        "--avo-selftest",
        action="store_true",
        help="Run kernels that cheat, break or only look odd, and fail if one escapes or an honest one is rejected "
        "(default: those that ship with the plugin; or name folders of further ones)",
    )
    group.addoption(
        "--avo-aa",
        action="store_true",
        help="Time kernels beside themselves and keep what is found between them as the noise floor of this machine, "
        "which later runs with the same fingerprint use",
    )
    group.addoption(
        "--avo-interpret",
        action="store_true",
        help="Check plain Triton kernels for correctness in Triton's interpreter, on the CPU (default: on the suite "
        "smoke, since it is slow). Gluon kernels, which have no interpreter, are skipped",
    )
    _add_spool(group)
    group.addoption(
        "--avo-shapes",
        metavar="SUITE[,SUITE]",
        help="Use these shape suites (shapes/SUITE.toml) instead of those that the kernels claim",
    )
    group.addoption(
        "--avo-peers",
        metavar="PEER[,PEER]",
        help="Compare with these peers (default: what the device offers; 'none' for none)",
    )
    group.addoption(
        "--avo-limits",
        metavar="PHASE=S[,PHASE=S]",
        help="Seconds that a kernel's process may spend in build, check and time, per shape "
        "(default: build=120,check=60,time=60)",
    )
    group.addoption(
        "--avo-max-rounds",
        type=int,
        metavar="N",
        help="Stop a comparison after N interleaved rounds at the latest (default: 30)",
    )
    group.addoption(
        "--avo-sandbox",
        choices=("auto", "require", "off"),
        default="auto",
        help="Confinement of kernels by namespaces, Landlock and seccomp: as far as the machine offers it, all of it "
        "or refuse to run, or only limits and a process group (default: auto)",
    )
    _add_gate(group)
    group.addoption("--avo-json", metavar="PATH", help="Write the results as JSON, in pytest-benchmark's schema")
    group.addoption("--avo-bmf", metavar="PATH", help="Write the results in the Bencher Metric Format")
    group.addoption(
        "--avo-gab",
        metavar="PATH",
        help="Write the results for github-action-benchmark, as its tool customSmallerIsBetter reads them",
    )
    group.addoption(
        "--avo-markdown",
        metavar="PATH",
        help="Write the results as GitHub Markdown; a job of GitHub Actions shows them as its summary in any case",
    )
    group.addoption(
        "--generations",
        "--avo-generations",
        type=int,
        default=DEFAULT_GENERATIONS,
        metavar="N",
        help=f"Variation attempts of an evolution, the seed not counted (default: {DEFAULT_GENERATIONS})",
    )
    group.addoption(
        "--avo-population",
        type=int,
        default=1,
        metavar="K",
        help="Variation attempts that each generation makes at the same time (default: 1)",
    )
    group.addoption(
        "--avo-islands",
        type=int,
        default=1,
        metavar="N",
        help="Islands that the population lives on, each varying its own best kernels; every "
        f"{MIGRATION_INTERVAL} generations the best of each comes to the next one (default: 1)",
    )
    group.addoption(
        "--avo-operator",
        metavar="NAME",
        help="What proposes variants: 'agent' (a model with tools), 'oneshot' (the same model, one answer, no tools), "
        "'tuner' (embedded, no model), or MODULE:ATTRIBUTE (default: agent where --avo-model names a model and "
        "OPENAI_API_KEY or --avo-base-url says how to reach it, else tuner)",
    )
    group.addoption(
        "--avo-seed",
        type=int,
        metavar="N",
        help="Seed of the operator's choices (default: drawn and recorded). Inputs are always drawn afresh",
    )
    group.addoption(
        "--avo-accept",
        choices=("faster", "match"),
        default="faster",
        help="Promote a candidate that is faster beyond noise, or also one that is no slower, as the paper does "
        "(default: faster)",
    )
    group.addoption("--avo-resume", action="store_true", help="Continue the kernel's last evolution where it stopped")
    group.addoption(
        "--avo-commit",
        action="store_true",
        help="Commit every promoted kernel to git, with its scores in the message's trailers",
    )
    _add_budget(group)
    _add_agent(group)
    parser.addini("avo_kernels", "Folders that --avo-bench collects without a path", type="args", default=["kernels"])
    parser.addini(
        "avo_evolve",
        "Kernel that a bare --avo-evolve takes, a line per target: 'cpu: kernels/cpu/quickstart.py'",
        type="linelist",
        default=[],
    )
    parser.addini(
        "avo_compare_fail",
        "Default of --avo-compare-fail, and limits of their own for suites and kernels, a line each: '3%', "
        "'decode-cpu: 5%', 'kernels/cpu/prefill.py: geomean:1%'",
        type="linelist",
        default=[],
    )
    for name in ("avo_price_input", "avo_price_output"):
        words = "input" if name.endswith("input") else "output"
        parser.addini(name, f"Price of a million {words} tokens, in the currency of --avo-max-cost", default="")
    for name in ("avo_shapes", "avo_peers", "avo_limits", "avo_operator", "avo_model", "avo_base_url"):
        parser.addini(name, f"Default of --{name.replace('_', '-')}", default="")


def _add_spool(group: pytest.OptionGroup) -> None:
    """Evaluation where no network reaches: requests and answers as files of a folder."""
    group.addoption(
        "--avo-serve",
        metavar="DIR",
        help="Answer the requests that runs with --tx spool=DIR wrote into DIR, on this machine's devices (-n: how "
        "many), and end when nothing is left. In an empty folder it says what kind of device is here, which those "
        "runs must know first",
    )
    group.addoption(
        "--avo-serve-for",
        metavar="T",
        help="Stop serving after T, as in 90s, 10min, 2h (default: when nothing is left)",
    )
    group.addoption(
        "--avo-submit",
        metavar="COMMAND",
        help="With --tx spool=DIR: run COMMAND when requests wait and nobody serves them. It must last as long as its "
        "job, as 'sbatch --wait serve.sbatch' does",
    )


def _add_gate(group: pytest.OptionGroup) -> None:
    """What kernels are compared with, and which slowdowns fail."""
    group.addoption(
        "--avo-compare",
        metavar="NAME|PATH|git:REF",
        help="Compare every kernel with a stored baseline, or with its source at a git ref, both measured now. "
        "Files that are unchanged since the ref are not measured unless they are named one by one",
    )
    group.addoption(
        "--avo-compare-fail",
        action="append",
        default=[],
        metavar="EXPR",
        help="Fail what is slower than this beyond doubt, measured twice: 3%%, median:3%% (the same) or geomean:1%%; "
        "can be given several times (default: comparing fails nothing)",
    )
    group.addoption(
        "--avo-compare-lenient",
        action="store_true",
        help="List shapes that the baseline lacks instead of failing them",
    )
    group.addoption(
        "--avo-allow-mismatch",
        action="store_true",
        help="Compare also with a baseline that was stored on another machine or with other versions",
    )
    group.addoption("--avo-save", metavar="NAME", help="Store the results as a baseline, .avo/baselines/NAME.json")
    group.addoption(
        "--avo-autosave", action="store_true", help="Store the results as a baseline named by date, time and commit"
    )


def _add_budget(group: pytest.OptionGroup) -> None:
    """Hard limits of an evolution, checked before anything is spent."""
    group.addoption(
        "--avo-max-tokens", type=int, metavar="N", help="Stop before input and output tokens together pass N"
    )
    group.addoption(
        "--avo-max-cost",
        type=float,
        metavar="X",
        help="Stop before the cost passes X; needs the ini keys avo_price_input and avo_price_output",
    )
    group.addoption(
        "--avo-max-evaluations",
        type=int,
        metavar="N",
        help="Stop before drafts and candidates together have been tried on N shapes, the seed not counted: the same "
        "budget for different operators",
    )
    group.addoption("--avo-max-time", metavar="T", help="Stop before the run takes longer than T, as in 90s, 30min, 2h")


def _add_agent(group: pytest.OptionGroup) -> None:
    """The model, and the parts of the agent."""
    group.addoption("--avo-model", metavar="NAME", help="Model of the agent, by the name that its server knows")
    group.addoption(
        "--avo-base-url",
        metavar="URL",
        help="Server that speaks chat completions with tools (default: OpenAI's). A key comes from OPENAI_API_KEY only",
    )
    group.addoption(
        "--avo-model-timeout",
        type=float,
        default=agent_settings.MODEL_TIMEOUT_S,
        metavar="S",
        help=f"Seconds for one answer, retries included (default: {agent_settings.MODEL_TIMEOUT_S:g})",
    )
    group.addoption(
        "--avo-turns",
        type=int,
        default=agent_settings.TURNS,
        metavar="N",
        help=f"Answers of the model in one step, at most (default: {agent_settings.TURNS})",
    )
    group.addoption(
        "--avo-context",
        type=int,
        default=agent_settings.CONTEXT_TOKENS,
        metavar="TOKENS",
        help="Shorten old tool output when a conversation is longer than this "
        f"(default: {agent_settings.CONTEXT_TOKENS})",
    )
    group.addoption(
        "--avo-knowledge",
        action="append",
        default=[],
        metavar="DIR",
        help="Add a folder of texts to what the agent can look up; can be given several times",
    )
    group.addoption("--avo-no-knowledge", action="store_true", help="Give the agent no knowledge base")
    group.addoption("--avo-no-memory", action="store_true", help="Keep lessons and rejected attempts from the agent")
    group.addoption("--avo-no-supervisor", action="store_true", help="Never step in when the agent makes no progress")
    group.addoption(
        "--avo-stall",
        type=int,
        default=agent_settings.STALL,
        metavar="N",
        help=f"Step in after N attempts without a commit (default: {agent_settings.STALL})",
    )
    group.addoption(
        "--avo-cycle",
        type=int,
        default=agent_settings.CYCLE,
        metavar="N",
        help="Step in after N attempts in a row that are near-duplicates or fail the same way "
        f"(default: {agent_settings.CYCLE})",
    )
    group.addoption(
        "--avo-directions",
        type=int,
        default=agent_settings.DIRECTIONS,
        metavar="N",
        help=f"Directions that the supervisor gives each time (default: {agent_settings.DIRECTIONS})",
    )
    group.addoption(
        "--avo-replay",
        type=int,
        metavar="RUN",
        help="Give the recorded answers of this run instead of asking a model: no network, no cost",
    )
