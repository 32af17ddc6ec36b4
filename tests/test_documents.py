"""What the documents say is so: options, files, modules, commands, version floors, and the example that users copy."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from pytest_avo.core.kernel import read_kernel
from pytest_avo.core.shape import read_suite
from tests import ROOT
from tests.plugin.conftest import quick

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md", *GUIDES]
OF_THE_USER = (
    r"conftest\.py|my_kernel\.py|kernels/first\.py|shapes/chat\.toml"
    r"|\.avo/.*|\.avo-agents/.*|(draft\.py|NAME\.py|[A-Z]+\.md|knowledge/|lineage/)|(answers|devices|requests)/|build\.toml|torch-ext/|seed\.txt"
)
"""Files that documents name and that exist in a user's project, an agent's folder, a spool, an inbox, an export."""


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest --help says, in a project without settings."""
    command = [sys.executable, "-m", "pytest", "--help"]
    folder = tmp_path_factory.mktemp("empty")
    environment = quick(os.environ)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def our_options(help_text: str) -> set[str]:
    """The option names of this plugin's group."""
    group = help_text.partition("evaluation and evolution of attention kernels:")[2].partition("\n\n")[0]
    lines = re.findall(r"^  (--\S.*?)(?:  |$)", group, re.MULTILINE)
    return {name for line in lines for name in re.findall(r"--[a-z][a-z-]+", line)}


def our_ini_keys(help_text: str) -> set[str]:
    return set(re.findall(r"^  (avo_\w+) \(", help_text, re.MULTILINE))


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_the_lists_of_the_reference_are_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reference.py", "--check"])
    assert runpy.run_path(str(ROOT / "benchmarks/reference.py"))["main"]() == 0


def test_the_reference_has_every_option_and_ini_key(help_text: str) -> None:
    page = read("docs/reference/options.md")
    options, keys = our_options(help_text), our_ini_keys(help_text)
    assert {"--avo-bench", "--generations"} <= options
    assert "avo_kernels" in keys
    rows = re.findall(r"^\| (`--.*?`) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"--[a-z][a-z-]+", row)} == options
    assert set(re.findall(r"^\| `(avo_[a-z_]+)` \|", page, re.MULTILINE)) == keys


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_no_option_that_does_not_exist(document: str, help_text: str) -> None:
    named = set(re.findall(r"--avo-[a-z-]+", (ROOT / document).read_text(encoding="utf-8")))
    assert named <= our_options(help_text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_in_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    quoted = set(re.findall(r"`(\.?[a-z][\w.-]*(?:/[\w.*-]*)+|[\w-]+\.(?:md|py|toml|txt|ini))`", text))
    of_the_plugin = {name for name in links | quoted if not re.fullmatch(OF_THE_USER, name)}
    named = {name for name in of_the_plugin if not re.search(r"[A-Z]{4}\.toml|TARGET", name)}
    # Links and names are relative to the document or to the root, names of modules to the package.
    places = [(ROOT / document).parent, ROOT, ROOT / "pytest_avo"]
    assert [name for name in sorted(named) if not any(list(place.glob(name)) for place in places)] == []


def test_the_map_names_every_folder_of_the_package_and_no_other() -> None:
    package = ROOT / "pytest_avo"
    folders = {f"{path.parent.relative_to(package).as_posix()}/" for path in package.rglob("__init__.py")} - {"./"}
    first_cells = re.findall(r"^\| (.*?) \|", read("AGENTS.md").partition("## Beside")[0], re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`([\w/]+/)`", cell)} == folders


def test_ci_runs_the_test_command_of_readme() -> None:
    section = README.partition("\n## Run the tests\n")[2].partition("\n## ")[0]
    (command,) = re.findall(r"^    (\S.*)$", section, re.MULTILINE)
    assert command in read(".ci/run").splitlines()


def test_the_lowest_versions_are_the_floors_of_the_package() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["test"] + extras["mcp"] + extras["parquet"]
    named = [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]
    floors = {requirement.name: requirement.specifier for requirement in named}
    pins = {pin.name: pin.specifier for pin in constraints("constraints-lowest.txt")}
    tested_in_one_build = {pin.name for pin in constraints("constraints-cpu.txt")}
    assert tested_in_one_build == {"torch", "triton"}
    assert {name: lowest(str(pin)) for name, pin in pins.items()} == {
        name: lowest(str(floor)) for name, floor in floors.items() if name not in tested_in_one_build
    }


def test_kernel_and_suite_of_the_tutorial_are_what_it_says(tmp_path: Path) -> None:
    page = read("docs/tutorial.md")
    (source,), (suite,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "toml"))
    (tmp_path / "first.py").write_text(source, encoding="utf-8")
    (tmp_path / "chat.toml").write_text(suite, encoding="utf-8")
    kernel = read_kernel(tmp_path / "first.py")
    assert kernel.fault == ""
    assert kernel.claim is not None
    assert kernel.claim.shapes == ("chat",)
    assert [each.name for each in kernel.tunables] == ["BLOCK_Q", "SKIP_HIDDEN"]
    assert [shape.id for shape in read_suite(tmp_path / "chat.toml")] == re.findall(r"^(b1-\S+) .*correct$", page, re.M)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def constraints(name: str) -> list[Requirement]:
    lines = read(name).splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def lowest(specifier: str) -> Version:
    """The version of a specifier with one clause: ==1.2.0 or >=1.2."""
    return Version(specifier.lstrip("=>"))
