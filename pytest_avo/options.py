"""Command line options and ini keys.

Rules for help texts: capital letter, no full stop for a single phrase, defaults named. Values stay plain strings and
numbers, because xdist sends them to its workers; settings.py makes values of them.
"""

from __future__ import annotations

import pytest

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
    group.addoption("--avo-json", metavar="PATH", help="Write the results as JSON, in pytest-benchmark's schema")
    group.addoption(
        "--generations",
        "--avo-generations",
        type=int,
        default=DEFAULT_GENERATIONS,
        metavar="N",
        help=f"Variation attempts of an evolution, the seed not counted (default: {DEFAULT_GENERATIONS})",
    )
    group.addoption(
        "--avo-operator",
        metavar="NAME",
        help="What proposes variants: 'tuner' (embedded, no model), or MODULE:ATTRIBUTE (default: tuner)",
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
    parser.addini("avo_kernels", "Folders that --avo-bench collects without a path", type="args", default=["kernels"])
    parser.addini(
        "avo_evolve",
        "Kernel that a bare --avo-evolve takes, a line per target: 'cpu: kernels/cpu/quickstart.py'",
        type="linelist",
        default=[],
    )
    for name in ("avo_shapes", "avo_peers", "avo_limits", "avo_operator"):
        parser.addini(name, f"Default of --{name.replace('_', '-')}", default="")
