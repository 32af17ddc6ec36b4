import threading

import pytest

from pytest_avo.evaluation.arms.faults import KernelFault
from pytest_avo.evaluation.judge.judgement import DeferredJudgement

PATIENCE_S = 60.0


def wrong() -> None:
    raise KernelFault("incorrect", "of no use")


def test_outputs_are_judged_on_another_thread_of_a_cpu() -> None:
    judgement, threads, known = DeferredJudgement("cpu"), list[int](), threading.Event()

    def judge() -> None:
        threads.append(threading.get_ident())
        known.set()

    judgement.begin(judge)
    assert known.wait(PATIENCE_S)
    judgement.settle()
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


def test_what_the_other_thread_has_not_begun_is_judged_here() -> None:
    busy, judgement, threads, done = DeferredJudgement("cpu"), DeferredJudgement("cpu"), list[int](), threading.Event()

    def wait() -> None:
        done.wait(PATIENCE_S)

    busy.begin(wait)
    try:
        judgement.begin(lambda: threads.append(threading.get_ident()))
        judgement.settle()
    finally:
        done.set()
        busy.settle()
    assert threads == [threading.get_ident()]


def test_what_is_found_is_raised_once_before_anything_is_asked_again() -> None:
    judgement = DeferredJudgement("cpu")
    judgement.begin(wrong)
    with pytest.raises(KernelFault, match="of no use"):
        judgement.settle()
    judgement.settle()
    judgement.begin(wrong)
    with pytest.raises(KernelFault, match="of no use"):
        judgement.begin(wrong)


def test_what_was_begun_may_be_forgotten_once_something_else_was_found() -> None:
    judgement = DeferredJudgement("cpu")
    judgement.begin(wrong)
    judgement.forget()
    judgement.settle()


def test_a_gpu_puts_nothing_off() -> None:
    with pytest.raises(KernelFault, match="of no use"):
        DeferredJudgement("cuda").begin(wrong)
