"""`avo export-kernel`: what it writes, the package `kernels` loads."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch

from pytest_avo.command.main import main
from pytest_avo.core.kernel import read_kernel
from pytest_avo.report.hub import hub_files
from tests import ROOT

QUICKSTART = ROOT / "kernels/cpu/quickstart.py"


def test_an_exported_kernel_is_loaded_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kernels = pytest.importorskip("kernels", reason="needs kernels")
    folder = tmp_path / "repository"
    assert main(["export-kernel", str(QUICKSTART), str(folder)]) == 0
    assert "avo-cpu-quickstart" in capsys.readouterr().out
    assert tomllib.loads((folder / "build.toml").read_text())["general"]["backends"] == ["cpu"]
    attention = kernels.get_local_kernel(folder, backend="cpu").attention
    q = torch.randn(1, 2, 5, 16)
    expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    torch.testing.assert_close(attention(q, q, q, causal=True, scale=0.25), expected)


def test_a_kernel_for_hopper_names_its_capability() -> None:
    source = (ROOT / "kernels/sm90/evolved.py").read_text()
    files = hub_files(read_kernel(ROOT / "kernels/sm90/evolved.py"), name="avo-evolved", license_="mit")
    assert tomllib.loads(files["build.toml"])["torch-noarch"] == {"cuda-capabilities": ["9.0"]}
    metadata = json.loads(files["build/torch-cuda/metadata.json"])
    assert metadata["backend"] == {"type": "cuda", "archs": ["9.0"]}
    assert files["torch-ext/avo_evolved/kernel.py"] == source
    (measured,) = [line for line in source.splitlines() if line.startswith("# avo: measured=")]
    assert measured.removeprefix("# avo: ") in files["README.md"]


def test_what_cannot_be_exported_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain.py"
    plain.write_text("def attention(q, k, v, *, causal, scale): ...\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    calls: dict[str, list[Path | str]] = {
        "claims nothing": [plain, tmp_path / "new"],
        "expected a new or empty folder": [QUICKSTART, tmp_path / "full"],
        "expected lower-case letters": [QUICKSTART, tmp_path / "new", "--name", "Über"],
        "cannot be read as a kernel": [tmp_path / "none.py", tmp_path / "new"],
    }
    for reason, arguments in calls.items():
        assert main(["export-kernel", *map(str, arguments)]) == 1
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
