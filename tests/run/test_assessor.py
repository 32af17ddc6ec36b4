"""Who evaluates the kernels of a run."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Evaluation, TimingPlan
from pytest_avo.core.kernel import Kernel, parse_kernel
from pytest_avo.run.assessor import Assessor
from tests.evolution.world import FIRST, SHAPES, Device, ScriptedEvaluator, World, source


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def kernel(target: str) -> Kernel:
    return parse_kernel(source(100).replace('"cpu"', f'"{target}"'), path=Path("tiny.py"))


def test_a_kernel_runs_on_what_it_is_written_for(world: World) -> None:
    assessor = world.assessor()
    assert assessor.device_for(kernel("cpu")) is assessor.device
    assert assessor.why_not_here(kernel("cpu")) == ""
    if assessor.device_for(kernel("sm90")) is None:
        assert assessor.why_not_here(kernel("sm90")) == "needs sm90, this machine has cpu (Some CPU)"


def test_a_request_names_the_device_and_its_peers(world: World) -> None:
    request = world.assessor().request(kernel("cpu"), SHAPES, plan=TimingPlan())
    assert (request.subject.source, request.shapes) == (kernel("cpu").source, SHAPES)
    assert (request.target, request.peers, request.baseline) == ("cpu", ("torch-sdpa",), None)
    world.changes = {"peers": ()}
    assert world.assessor().request(kernel("cpu"), SHAPES, plan=TimingPlan()).peers == ()


def test_an_evaluator_is_started_once_whoever_wants_it_first(world: World) -> None:
    started: list[str] = []

    def start(target: str) -> ScriptedEvaluator:
        started.append(target)
        return world.evaluator

    assessor = Assessor(world.settings, Device(), world.console, start=start, confinement="off")
    assert assessor.work() == []
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: assessor.evaluator_on("cpu"), range(32)))
    assert started == ["cpu"]
    assert all(each is world.evaluator for each in found)


def test_answers_come_by_shape(world: World) -> None:
    assessor = world.assessor()
    found = assessor.answers(assessor.request(kernel("cpu"), SHAPES, plan=TimingPlan()))
    assert {shape: evaluation.outcome for shape, evaluation in found.items()} == {x.id: "ok" for x in SHAPES}


@pytest.mark.parametrize("error", [EvaluatorError("lost"), FutureTimeoutError("the kernel's own")])
def test_what_an_evaluation_raises_is_not_taken_for_waiting(world: World, error: Exception) -> None:
    future: Future[Evaluation] = Future()
    future.set_exception(error)
    with pytest.raises(type(error)) as raised:
        world.assessor().wait(future)
    assert raised.value is error


def test_what_became_of_workers_is_said_while_somebody_waits(world: World) -> None:
    class Telling(ScriptedEvaluator):
        def news(self) -> list[str]:
            return ["gw1 is lost"]

    world.evaluator = Telling()
    assessor = world.assessor()
    assert assessor.evaluator is world.evaluator
    future: Future[Evaluation] = Future()
    future.set_result(Evaluation(FIRST, "ok"))
    assert assessor.wait(future).shape == FIRST
    assert world.said == ["gw1 is lost"]
