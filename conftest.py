"""Tests that need a GPU are deselected where there is none."""

from __future__ import annotations

import shutil

import pytest

pytest_plugins = ["pytester"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect `gpu` tests on a machine without an NVIDIA driver."""
    if shutil.which("nvidia-smi"):
        return
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]
