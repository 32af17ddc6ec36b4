from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pytest_avo.evaluation.arms.spawner import Spawner
from tests.evaluation.laboratory import Laboratory

SECRET = "sk-nobody-may-see-this"


@pytest.fixture(scope="session", autouse=True)
def private_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A secret that no kernel may see, leases and boxes apart from other runs, and a judge with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", SECRET)
        patch.setenv("HARMLESS_NAME", SECRET)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


def started(tmp_path_factory: pytest.TempPathFactory, *, layers: bool) -> Iterator[Spawner]:
    spawner = Spawner(box=tmp_path_factory.mktemp("box"), environment={"OMP_NUM_THREADS": "1"}, warm=["torch"])
    spawner.start(layers=layers)
    spawner.wait()
    yield spawner
    spawner.kill()


@pytest.fixture(scope="session")
def confined_spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawner]:
    yield from started(tmp_path_factory, layers=True)


@pytest.fixture(scope="session")
def bare_spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawner]:
    yield from started(tmp_path_factory, layers=False)


@pytest.fixture
def confined(confined_spawner: Spawner) -> Iterator[Laboratory]:
    """Kernels run with every layer of confinement that this machine offers."""
    laboratory = Laboratory(confined_spawner)
    yield laboratory
    assert laboratory.leftovers() == []


@pytest.fixture
def bare(bare_spawner: Spawner) -> Iterator[Laboratory]:
    """Kernels run with limits alone, as with --avo-sandbox=off."""
    laboratory = Laboratory(bare_spawner)
    yield laboratory
    assert laboratory.leftovers() == []


@pytest.fixture(params=["confined", "bare"])
def laboratory(request: pytest.FixtureRequest) -> Laboratory:
    """Both ways of running kernels, one after the other."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Laboratory)
    return found
