"""Options of modes, of measuring, of the gate and of results."""

from __future__ import annotations

from functools import partial

from pytest_avo.report.catalogue import FORMATS
from pytest_avo.run.mode import Mode
from pytest_avo.session.options.option import Option

BENCH: tuple[Mode, ...] = ("bench",)
TIMED: tuple[Mode, ...] = ("bench", "evolve", "aa")
WITH_RESULTS: tuple[Mode, ...] = ("bench", "evolve")
SERVE: tuple[Mode, ...] = ("serve",)
WITH_SUITES: tuple[Mode, ...] = ("bench", "evolve", "compile", "interpret", "aa")

_mode = partial(Option, section="mode")
_measuring = partial(Option, section="measuring")
_gate = partial(Option, section="gate", modes=BENCH)
_spool = partial(Option, section="spool")

MODE_OPTIONS: dict[Mode, Option] = {
    "bench": _mode(
        flag="--avo-bench",
        kind="switch",
        help="Check and time kernels: every kernel file below the given paths (default: the ini key avo_kernels) on "
        "every shape that it claims, beside its peers",
    ),
    "evolve": _mode(
        flag="--avo-evolve",
        kind="switch",
        help="Evolve one kernel: the given file, or the one that the ini key avo_evolve names for this machine",
    ),
    "compile": _mode(
        flag="--avo-compile",
        without_value="sm90",
        metavar="TARGET",
        help="Report what kernels for TARGET compile to, without its GPU: registers, spills, shared memory, wgmma. "
        "Fails on spills in the innermost loops that multiply matrices (anywhere, where there is no such loop), on "
        "serialised wgmma and on too much shared memory (default: sm90)",
    ),
    "interpret": _mode(
        flag="--avo-interpret",
        kind="switch",
        help="Check plain Triton kernels for correctness in Triton's interpreter, on the CPU (default: on the suite "
        "smoke, since it is slow). Gluon kernels, which have no interpreter, are skipped",
    ),
    "selftest": _mode(
        flag="--avo-selftest",
        kind="switch",
        help="Run kernels that cheat, break or only look odd, and fail if one escapes or an honest one is rejected "
        "(default: those that ship with the plugin; or name folders of further ones)",
    ),
    "aa": _mode(
        flag="--avo-aa",
        kind="switch",
        help="Time kernels beside themselves and keep what is found between them as the noise floor of this machine, "
        "which later runs with the same fingerprint use",
    ),
    "serve": _mode(
        flag="--avo-serve",
        metavar="DIR",
        help="Answer the requests that runs with --tx spool=DIR wrote into DIR, on this machine's devices (-n: how "
        "many), and end when nothing is left. In an empty folder it says what kind of device is here, which those "
        "runs must know first",
    ),
}
MEASURING = (
    _measuring(
        flag="--avo-shapes",
        metavar="SUITE[,SUITE]",
        has_ini=True,
        modes=WITH_SUITES,
        help="Use these shape suites (shapes/SUITE.toml) instead of those that the kernels claim",
    ),
    _measuring(
        flag="--avo-peers",
        metavar="PEER[,PEER]",
        has_ini=True,
        modes=WITH_RESULTS,
        help="Compare with these peers (default: what the device offers; 'none' for none)",
    ),
    _measuring(
        flag="--avo-limits",
        metavar="PHASE=S[,PHASE=S]",
        has_ini=True,
        modes=(*TIMED, "selftest"),
        help="Seconds that a kernel's process may spend in build, check and time, per shape "
        "(default: build=120,check=60,time=60)",
    ),
    _measuring(
        flag="--avo-max-rounds",
        kind="whole",
        least=3,
        metavar="N",
        modes=TIMED,
        help="Stop a comparison after N interleaved rounds at the latest (default: 30)",
    ),
    _measuring(
        flag="--avo-calls",
        choices=("graph", "eager"),
        default="graph",
        modes=TIMED,
        help="How timed calls are made on a GPU, and so which time verdicts and gates use: replayed from a CUDA graph, "
        "or launched one by one, the host's part included (default: {default}). A CPU has eager calls alone",
    ),
    _measuring(
        flag="--avo-sandbox",
        choices=("auto", "require", "off"),
        default="auto",
        help="Confinement of kernels by namespaces, Landlock and seccomp: as far as the machine offers it, all of it "
        "or refuse to run, or only limits and a process group (default: {default})",
    ),
)
GATE = (
    Option(
        flag="--avo-compare",
        section="gate",
        metavar="NAME|PATH|git:REF",
        modes=(*BENCH, "compile"),
        help="Compare every kernel with a stored baseline, or with its source at a git ref, both measured now. "
        "Files that are unchanged since the ref are not measured unless they are named one by one. With "
        "--avo-compile, where git:REF alone has a meaning: say what compiles otherwise than at the ref",
    ),
    _gate(
        flag="--avo-compare-fail",
        kind="texts",
        metavar="EXPR",
        help="Fail what is slower than this beyond doubt, measured twice: 3%, median:3% (the same) or geomean:1%; "
        "can be given several times (default: comparing fails nothing)",
    ),
    _gate(
        flag="--avo-compare-lenient",
        kind="switch",
        help="List shapes that the baseline lacks instead of failing them",
    ),
    _gate(
        flag="--avo-allow-mismatch",
        kind="switch",
        help="Compare also with a baseline that was stored on another machine or with other versions",
    ),
    _gate(
        flag="--avo-save",
        metavar="NAME",
        help="Store the results as a baseline, .avo/baselines/NAME.json",
    ),
    _gate(
        flag="--avo-autosave",
        kind="switch",
        help="Store the results as a baseline named by date, time and commit",
    ),
)
RESULTS = tuple(
    Option(flag=f"--avo-{each.name}", metavar="PATH", section="results", modes=WITH_RESULTS, help=each.help)
    for each in FORMATS
)
LIVE = Option(
    flag="--avo-live",
    kind="switch",
    section="results",
    modes=("evolve",),
    help="Serve the page of --avo-html while the evolution goes on, to this machine alone: its address is printed "
    "(extra `report`)",
)
SPOOL = (
    _spool(
        flag="--avo-serve-for",
        metavar="T",
        modes=SERVE,
        help="Stop serving after T, as in 90s, 10min, 2h (default: when nothing is left)",
    ),
    _spool(
        flag="--avo-submit",
        metavar="COMMAND",
        modes=TIMED,
        help="With --tx spool=DIR: run COMMAND when requests wait and nobody serves them. It must last as long as its "
        "job, as 'sbatch --wait serve.sbatch' does",
    ),
)
