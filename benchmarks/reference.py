"""The pages of docs/reference/ that are lists: options, hooks, suites of shapes and the lineage, made from the code.

python benchmarks/reference.py            # rewrite them
python benchmarks/reference.py --check    # exit with 1 if one is not what the code says
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pytest_avo.evaluation.correctness.timed_kinds import TIMED_KINDS
from pytest_avo.lineage.events import KINDS, Fact
from pytest_avo.run.mode import MODES
from pytest_avo.session.options.option import Option
from pytest_avo.session.options.table import INI_KEYS, OPTIONS

ROOT = Path(__file__).parents[1]
MADE = "Made by `python benchmarks/reference.py`; a test holds it true.\n"
SECTIONS = {
    "mode": ("Modes", "What a run does; one of them at a time."),
    "measuring": ("Measuring", ""),
    "gate": ("Gate", "[Baselines and gates](../how-to/baselines.md) says which baseline to use."),
    "results": ("Results as files", ""),
    "spool": ("Spool", "[Evaluate where no network reaches](../how-to/slurm.md) says how it is used."),
    "evolution": ("Evolution", ""),
    "budget": ("Budget", "Hard limits, checked before anything is spent."),
    "model": (
        "Model and agent",
        "For operators that ask a model. The key comes from the environment variable `OPENAI_API_KEY` alone.",
    ),
}
EVERY_MODE = "every mode"


def options() -> str:
    """docs/reference/options.md: every option by section, and the ini keys."""
    text = f"""# Options

{MADE}
An option that means nothing in the mode of a run, or to the operator that it has, is a usage error that names both, and
so is one without a mode. What an ini file's `addopts` say is a project's default and stays without effect elsewhere.

Of pytest's own options `-k`, `-m`, `-x`, `--lf`, `--co`, `-v`, `-q`, `--junitxml` mean what they always mean, and
pytest-xdist's `-n N` and `--tx SPEC` are the workers that evaluate, here and on
[other hosts](../how-to/devices-and-hosts.md).

Exit status: 0 all well, 1 a kernel is wrong or slower than the gate allows, 3 the machine failed, 4 a usage error or a
baseline that cannot be compared with, 5 nothing collected. A variant that is no good is a normal event of an evolution
and fails nothing.
"""
    for section, (title, lead) in SECTIONS.items():
        listed = [option for option in OPTIONS.values() if option.section == section]
        table = markdown(_rows(listed), ["option", "meaning", "with"])
        text += "\n".join(["", f"## {title}", "", *([lead, ""] if lead else []), table, ""])
    return f"{text}\n{_ini_keys()}"


def _rows(listed: list[Option]) -> Iterator[list[str]]:
    for option in listed:
        value = f"[{option.metavar}]" if option.without_value else option.metavar or "|".join(option.choices)
        written = ", ".join(f"`{flag} {value}".rstrip() + "`" for flag in option.flags)
        modes = EVERY_MODE if option.modes == MODES else ", ".join(option.modes)
        operators = f"; operator {', '.join(option.operators)}" if option.operators else ""
        yield [written, option.text, "" if option.section == "mode" else f"{modes}{operators}"]


def _ini_keys() -> str:
    rows = ([f"`{key.name}`", key.help] for key in INI_KEYS)
    variables = ", ".join(f"`{option.variable}`" for option in OPTIONS.values() if option.has_ini)
    return f"""## Ini keys and variables

{markdown(rows, ["ini key", "meaning"])}

Between an option and its ini key stands a variable of the environment: {variables}.

    [tool.pytest.ini_options]
    avo_kernels = ["kernels"]
    avo_evolve = ["cpu: kernels/cpu/quickstart.py"]
    avo_compare_fail = ["3%", "decode-cpu: 5%", "kernels/cpu/prefill.py: geomean:1%"]
"""


def hooks() -> str:
    """docs/reference/hooks.md: every hook that a conftest.py can implement."""
    module = ast.parse((ROOT / "pytest_avo/hookspecs.py").read_text(encoding="utf-8"))
    text = f"# Hooks\n\n{MADE}\nA `conftest.py` can replace a part of a run. Name only the arguments that you want.\n"
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("pytest_avo_"):
            arguments = ", ".join(argument.arg for argument in node.args.args)
            docstring = (ast.get_docstring(node) or "").replace("``", "`")
            text += f"\n## `{node.name}({arguments})`\n\n{docstring}\n"
    return f"""{text}
## An example

    # conftest.py: try your own idea first, then leave the choice to the operator
    from pytest_avo.operators.operator import Proposal

    def pytest_avo_propose(task):
        if task.generation > 1:
            return None
        source = task.kernel.source.replace("BLOCK_Q = 32 ", "BLOCK_Q = 128 ")
        return Proposal(source=source, hypothesis="fewer, taller tiles", predicted={{"geomean": 1.3}})
"""


def suites() -> str:
    """docs/reference/suites.md: the suites of shapes that ship with the plugin."""
    rows = []
    for path in sorted((ROOT / "shapes").glob("*.toml")):
        suite = tomllib.loads(path.read_text(encoding="utf-8"))
        rows.append([f"`{path.stem}`", str(len(suite["shape"])), ", ".join(suite["inputs"]), suite["description"]])
    kinds = markdown([[f"`{name}`", kind.help] for name, kind in TIMED_KINDS.items()], ["kind", "what it is"])
    return f"""# Shape suites

{MADE}
A suite is a file `shapes/NAME.toml` of `[[shape]]` tables. Those of your own project come first, then these:

{markdown(rows, ["suite", "shapes", "inputs", "what it holds"])}

## Kinds of inputs

A suite's key `inputs`, or a shape's own, is a list of the kinds of inputs that kernels are timed on: one round after
the other, the same kind for all that is timed. All kinds count alike; without the key there is but `normal`. Numbers
are drawn afresh for every round.

{kinds}
"""


def lineage() -> str:
    """docs/reference/lineage.md: the tables of a lineage and the kinds of its events."""
    schema = (ROOT / "pytest_avo/lineage/schema.sql").read_text(encoding="utf-8")
    version = re.search(r"PRAGMA user_version = (\d+)", schema)
    assert version is not None
    tables = re.findall(r"^CREATE TABLE IF NOT EXISTS (\w+) \(\n(.*?)^\)", schema, re.MULTILINE | re.DOTALL)
    text = f"""# The lineage

{MADE}
`.avo/lineage.sqlite3` has all that an evolution did, in SQLite. Whatever reads SQLite can read it while a run writes to
it, one process writes at a time, and rows are only ever added. `PRAGMA user_version`, now {version[1]}, is the version
of the schema, which `pytest_avo/lineage/schema.sql` has as it is; older files are brought up to date when opened.
Log-ratios are natural logarithms of old time / new time: above 0 the attempt is faster. For analysis
[tables](export.md) are handier.
"""
    for name, columns in tables:
        rows = [_column(each) for each in re.split(r"\n(?=    \w)", columns.strip("\n"))]
        text += f"\n## `{name}`\n\n{markdown(rows, ['column', 'type', 'what it holds'])}\n"
    rows = [[f"`{kind}`", _fields(fact), " ".join((fact.__doc__ or "").split())] for kind, fact in KINDS.items()]
    return f"""{text}
## Kinds of events

{markdown(rows, ["kind", "data", "what it records"])}

## An example

What was promoted, by how much, and why:

    sqlite3 .avo/lineage.sqlite3 "SELECT attempt.run, generation, round(exp(confirmed), 3), hypothesis
        FROM attempt JOIN outcome ON outcome.attempt = attempt.id WHERE status = 'promoted' ORDER BY attempt.id"
"""


def _column(written: str) -> list[str]:
    """A column of schema.sql: name, type, and the comment behind it."""
    declared, _, comment = " ".join(written.split()).partition("-- ")
    name, kind = declared.replace(",", "").split()[:2]
    assert comment, f"schema.sql: {name} has no comment"
    choices = re.search(r"IN \((.*?)\)", declared)
    of = f": {choices[1].strip().replace(chr(39), '`')}" if choices else ""
    return [f"`{name}`", kind if "NOT NULL" in declared or "PRIMARY" in declared else f"{kind} or NULL", comment + of]


def _fields(fact: type[Fact]) -> str:
    return ", ".join(f"`{name}`" for name in fact.__struct_fields__)


def markdown(rows: Iterator[list[str]] | list[list[str]], headers: list[str]) -> str:
    """A table in Markdown without its empty columns; bars inside cells are escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    used = [index for index, _ in enumerate(headers) if any(row[index] for row in cells)]
    lines = [headers, ["---"] * len(headers), *cells]
    return "\n".join(f"| {' | '.join(row[index] for index in used)} |" for row in lines)


PAGES = {"options.md": options, "hooks.md": hooks, "suites.md": suites, "lineage.md": lineage}


def main() -> int:
    """Rewrite or check the pages."""
    folder, stale = ROOT / "docs" / "reference", []
    for name, page in PAGES.items():
        path, wanted = folder / name, page()
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text(encoding="utf-8") != wanted:
                stale.append(name)
        else:
            path.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"docs/reference/{name} is not what the code says: run python benchmarks/reference.py")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
