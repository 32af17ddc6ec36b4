"""What the documents say is so: options, files, modules, commands, version floors, and the example that users copy."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md", *GUIDES]
OF_THE_USER = r"conftest\.py|my_kernel\.py|\.avo/.*"
"""Files that documents name and that exist in a user's project alone."""


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest --help says, in a project without settings."""
    command = [sys.executable, "-m", "pytest", "--help"]
    folder = tmp_path_factory.mktemp("empty")
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def our_options(help_text: str) -> set[str]:
    """The option names of this plugin's group."""
    group = help_text.partition("evaluation and evolution of attention kernels:")[2].partition("\n\n")[0]
    lines = re.findall(r"^  (--\S.*?)(?:  |$)", group, re.MULTILINE)
    return {name for line in lines for name in re.findall(r"--[a-z][a-z-]+", line)}


def our_ini_keys(help_text: str) -> set[str]:
    return set(re.findall(r"^  (avo_\w+) \(", help_text, re.MULTILINE))


def rows(section: str, document: str = README) -> list[str]:
    """First cells of the table in a section of a document."""
    text = document.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)


def test_readme_has_a_row_for_every_option_and_no_other(help_text: str) -> None:
    options = our_options(help_text)
    assert {"--avo-bench", "--generations"} <= options
    named = {name for row in rows("Options") for name in re.findall(r"--[a-z][a-z-]+", row)}
    assert named - {"--tx"} == options  # pytest-xdist's own, which an evolution takes over


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_no_option_that_does_not_exist(document: str, help_text: str) -> None:
    named = set(re.findall(r"--avo-[a-z-]+", (ROOT / document).read_text(encoding="utf-8")))
    assert named <= our_options(help_text)


def test_readme_names_every_ini_key_and_no_other(help_text: str) -> None:
    keys = our_ini_keys(help_text)
    assert "avo_kernels" in keys
    assert set(re.findall(r"\bavo_[a-z_]+\b", README)) == keys


def test_readme_has_a_row_for_every_hook() -> None:
    hooks = set(re.findall(r"^def (pytest_avo_\w+)\(", read("pytest_avo/hookspecs.py"), re.MULTILINE))
    assert {row.strip("`").partition("(")[0] for row in rows("Hooks")} == hooks


def test_readme_has_a_row_for_every_suite() -> None:
    named = {name for row in rows("Shape suites") for name in re.findall(r"[\w-]+", row)}
    assert named == {path.stem for path in (ROOT / "shapes").glob("*.toml")}


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


def test_the_map_names_every_module_and_no_other() -> None:
    package = ROOT / "pytest_avo"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert set(re.findall(r"^\| `([\w/]+\.py)` \|", read("AGENTS.md"), re.MULTILINE)) == modules


def test_ci_runs_the_test_command_of_readme() -> None:
    section = README.partition("\n## Run the tests\n")[2].partition("\n## ")[0]
    (command,) = re.findall(r"^    (\S.*)$", section, re.MULTILINE)
    assert command in read(".ci/run").splitlines()


def test_the_lowest_versions_are_the_floors_of_the_package() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["test"]
    floors = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    pins = {pin.name: pin.specifier for pin in constraints("constraints-lowest.txt")}
    tested_in_one_build = {pin.name for pin in constraints("constraints-cpu.txt")}
    assert tested_in_one_build == {"torch", "triton"}
    assert {name: lowest(str(pin)) for name, pin in pins.items()} == {
        name: lowest(str(floor)) for name, floor in floors.items() if name not in tested_in_one_build
    }


def test_the_kernel_of_the_guide_passes(tmp_path: Path) -> None:
    (kernel,) = re.findall(r"```python\n(.*?)```", read("docs/how-to/write-a-kernel.md"), re.DOTALL)
    (tmp_path / "my_kernel.py").write_text(kernel, encoding="utf-8")
    options = ["--avo-max-rounds", "5", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--avo-bench", "my_kernel.py", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "9 correct" in ended.stdout


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def constraints(name: str) -> list[Requirement]:
    lines = read(name).splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def lowest(specifier: str) -> Version:
    """The version of a specifier with one clause: ==1.2.0 or >=1.2."""
    return Version(specifier.lstrip("=>"))
