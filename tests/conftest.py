"""What is set for all tests: signals as a terminal has them, bytecode that is kept, idle threads that sleep."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
from collections.abc import Iterator

import pytest

# Before torch is imported: threads that have nothing to do sleep, where they would spin on the core of another worker.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure() -> None:
    """Let Ctrl-C reach tests of it: a shell starts background jobs with SIGINT ignored, and processes inherit that.

    And keep bytecode, whatever the surroundings say: many processes import torch, which takes each twice as long else.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    with contextlib.suppress(ImportError):  # an evolution in this project reads this file too, without the tests' extra
        _take_time()


@pytest.fixture(scope="session", autouse=True)
def _own_git(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have git know nothing of the user: who signs commits, say, would fail forty tests."""
    settings = tmp_path_factory.mktemp("git") / "config"
    settings.write_text("[safe]\n\tdirectory = *\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", str(settings))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


def _take_time() -> None:
    """Let hypothesis' examples take as long as they do, and be the same in every run.

    By itself it fails what takes 0.2 s, or what it is slow to draw, which busy machines do. Others are drawn with
    --hypothesis-profile=default.
    """
    from hypothesis import HealthCheck, settings

    slow = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
    settings.register_profile("busy", deadline=None, derandomize=True, suppress_health_check=slow)
    settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Have each test draw the same numbers, whichever ran before it on its worker."""
    random.seed(1)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Leave what is there for good out of every later collection of garbage: pytest makes one after each inner run.

    With all that the tests import it took 0.7 s of each.
    """
    # Its plugin does so at the end at the latest, and then finds nobody who holds trio's generator of random numbers.
    with contextlib.suppress(ImportError):  # an evolution in this project reads this file too, without the tests' extra
        import hypothesis  # noqa: F401
    gc.collect()
    gc.freeze()
