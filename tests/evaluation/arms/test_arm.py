"""What kernels may do to their judge: every way gets an outcome of its own, and the next kernel notices nothing."""

from __future__ import annotations

import json
import re
import textwrap
import time
from pathlib import Path
from random import Random

import pytest
import torch

from pytest_avo.core.kernel import Claim
from pytest_avo.evaluation.arms.faults import KernelFault, KernelRaised
from pytest_avo.evaluation.correctness.correctness import fault
from pytest_avo.evaluation.correctness.extensions.answer import answer_fault
from pytest_avo.evaluation.correctness.extensions.cases import SequencesCase, all_cases
from pytest_avo.evaluation.correctness.extensions.drawing import draw_any
from pytest_avo.evaluation.correctness.inputs import Arguments, Case, draw
from pytest_avo.evaluation.correctness.layouts import Layout
from pytest_avo.evaluation.linux import processes
from tests.evaluation.correctness.extensions import everything
from tests.evaluation.laboratory import PATIENCE_S, Laboratory, kernel, shape

FORM = {"plain": True, "shape": [1, 4, 48, 64], "dtype": "float32", "device": "cpu"}
DONE = json.dumps({"said": "done", "calls": 1, "forms": [FORM], "seconds": 0.0})
HUNG = "while True: pass"

CRASHES = {
    "segfault": (kernel("ctypes.string_at(0)"), "killed by SIGSEGV in check"),
    "exit without a word": (kernel("os._exit(0)"), "exited with status 0 in check"),
    "sys.exit": (kernel("sys.exit(0)"), "exited with status 1 in check"),
    "sys.exit on import": (kernel(top="sys.exit(0)"), "exited with status 1 in build"),
    "exception": (kernel("raise RuntimeError('no such luck')"), "raised RuntimeError: no such luck (line "),
    "exception on import": (kernel(top="import no_such_module"), "raised ModuleNotFoundError: No module named"),
    "syntax error": ("def attention(:", "raised SyntaxError: invalid syntax"),
    "nothing to call": ("x = 1", "raised AttributeError: module 'kernel' has no attribute 'attention'"),
    "hung up": (kernel("os.close(3)"), "in check"),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_told_from_how_the_process_ended(laboratory: Laboratory, name: str) -> None:
    source, words = CRASHES[name]
    ending = laboratory.run(source)
    assert ending.outcome == "crashed"
    assert words in ending.reason
    assert laboratory.run(kernel()).outcome == "ok"


def test_what_is_no_text_is_told_as_far_as_it_is(confined: Laboratory) -> None:
    ending = confined.run(kernel("raise RuntimeError(os.fsdecode(bytes([0x63, 0xff])))"))
    assert ending.outcome == "crashed"
    assert "raised RuntimeError: c?" in ending.reason


def test_requests_that_are_answered_unread_are_rejected(confined: Laboratory) -> None:
    top = """
    def attention(q, k, v, *, causal, scale):
        frame = sys._getframe(1)
        while "link" not in frame.f_locals: frame = frame.f_back
        link = frame.f_locals["link"]
        out = honest(q, k, v, causal=causal, scale=scale)
        link.setsockopt(socket.SOL_SOCKET, 42, 0)  # SO_PEEK_OFF
        caller, load = frame.f_locals["caller"], sys._getframe(0)
        caller.answer({"attention": lambda *x, **y: out}, frame.f_locals["request"])
        link.send(DONE)
        while message := link.recv(1 << 17, socket.MSG_PEEK):
            caller.answer({"attention": honest}, json.loads(message))
            link.send(DONE)
    """
    source = (
        kernel().replace("def attention(", "def unused(") + f"\n\nDONE = {DONE.encode()!r}\n" + textwrap.dedent(top)
    )
    ending = confined.run(source, calls=2)
    assert (ending.outcome, ending.reason) == ("rejected", "did not take the request that it was to answer")


HANGS = {
    "python": (kernel(HUNG), "check took longer than 1 s"),
    "C with the interpreter's lock": (kernel("ctypes.PyDLL(None).pause()"), "check took longer than 1 s"),
    "signals ignored": (
        kernel("for n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n" + HUNG),
        "check took longer than 1 s",
    ),
    "import": (kernel(top=HUNG), "build took longer than 1 s"),
}


@pytest.mark.parametrize("name", HANGS)
def test_a_hang_ends_with_its_limit(confined: Laboratory, name: str) -> None:
    source, words = HANGS[name]
    ending = confined.run(source, limit_s=1, load_s=1 if name == "import" else 20)
    assert (ending.outcome, ending.reason) == ("timeout", words)
    assert confined.run(kernel()).outcome == "ok"


FORGERIES = {
    "garbage": "os.write(3, b'done')",
    "no text": "os.write(3, bytes([0x22, 0xff, 0xfe, 0x22]))",
    "text that is none": """os.write(3, b'{"said": "error", "refused": true, "what": "' + bytes([0xff]) + b'"}')""",
    "deep nesting": """os.write(3, b'{"x": ' + b'[' * 30000 + b']' * 30000 + b', "said": "done"}')""",
    "too long": "os.write(3, b'x' * 100000)",
    "long reason": """os.write(3, json.dumps({"said": "error", "refused": True, "what": "x" * 9000}).encode())""",
    "unknown field": """os.write(3, b'{"said": "loaded", "score": 100}')""",
    "nothing asked": """os.write(3, b'{"said": "loaded"}')""",
    "no calls": """os.write(3, b'{"said": "done", "calls": 1, "forms": [], "seconds": 0.1}')""",
    "more calls": f"os.write(3, {DONE.replace('1', '2', 1).encode()!r})",
    "infinite seconds": f"os.write(3, {DONE.replace('0.0', 'Infinity').encode()!r})",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_reply_is_rejected(confined: Laboratory, name: str) -> None:
    ending = confined.run(kernel(FORGERIES[name]))
    assert ending.outcome == "rejected"
    assert len(ending.reason) < 200
    assert confined.run(kernel()).outcome == "ok"


def test_an_early_done_buys_no_result(confined: Laboratory) -> None:
    """The forged reply is well-formed; the judge stops the process at once and finds memory that nobody wrote."""
    ending = confined.run(kernel(f"os.write(3, {DONE.encode()!r})\ntime.sleep(0.5)"))
    assert ending.outcome == "incorrect"
    assert "NaN" in ending.reason


def test_a_second_reply_is_noticed(confined: Laboratory) -> None:
    late = f"threading.Timer(0.0, lambda: [os.write(3, {DONE.encode()!r}) for _ in range(9)]).start()\ntime.sleep(0.2)"
    ending = confined.run(kernel(late), calls=3)
    assert ending.outcome in {"rejected", "incorrect"}
    assert confined.run(kernel()).outcome == "ok"


def test_descriptors_of_the_harness_are_the_kernels_own_loss(confined: Laboratory) -> None:
    """Shrinking the shared memory would kill the judge, who has it mapped."""
    for number in (4, 5):
        ending = confined.run(kernel(f"os.ftruncate({number}, 0)"))
        assert ending.outcome == "crashed"
        assert "PermissionError" in ending.reason
    assert confined.run(kernel("os.closerange(4, 100)")).outcome == "ok"


FORMS = {
    "other dtype": ("return honest(q, k, v, causal=causal, scale=scale).double()", "incorrect", "dtype is float64"),
    "other shape": (
        "return honest(q, k, v, causal=causal, scale=scale)[:, :1]",
        "incorrect",
        "shape is [1, 1, 48, 64], expected [1, 4, 48, 64]",
    ),
    "other device": ("return torch.empty_like(q, device='meta')", "incorrect", "device is meta, expected cpu"),
    "nothing": ("return None", "rejected", "returned a NoneType"),
    "two tensors": ("return (q.clone(), k.clone())", "rejected", "returned a tuple"),
    "a subclass": ("return torch.nn.Parameter(q.clone())", "rejected", "returned a Parameter"),
    "a view of an input": ("return v[:, :1].expand(q.shape) if q.shape[2] == v.shape[2] else q", "rejected", "shares"),
    "unwritten memory": ("return torch.full_like(q, float('nan'))", "incorrect", "NaN or infinite"),
    "changed inputs": ("v[0, 0, 0, 0] += 1", "rejected", "modified its inputs"),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_a_result_is_exact(confined: Laboratory, name: str) -> None:
    body, outcome, words = FORMS[name]
    ending = confined.run(kernel(body))
    assert ending.outcome == outcome
    assert words in ending.reason


def test_a_result_may_have_any_strides(confined: Laboratory) -> None:
    body = "return honest(q, k, v, causal=causal, scale=scale).transpose(1, 3).contiguous().transpose(1, 3)"
    assert confined.run(kernel(body), calls=2).outcome == "ok"


def test_arguments_may_be_scratch_where_every_bit_is_restored(confined: Laboratory) -> None:
    assert confined.run(kernel("kept = q.clone()\nq.mul_(2)\nq.copy_(kept)"), calls=2).outcome == "ok"


def test_a_refused_shape_is_unsupported(confined: Laboratory) -> None:
    ending = confined.run(kernel("raise NotImplementedError('head_dim 64')"))
    assert (ending.outcome, ending.reason.partition(" (line")[0]) == (
        "unsupported",
        "raised NotImplementedError: head_dim 64",
    )


def test_a_kernel_that_raised_can_be_asked_again(confined: Laboratory) -> None:
    """A refusal of one shape costs neither the process nor what it compiled."""
    arm = confined.arm(kernel("if calls == 1: raise ValueError('not this one')"))
    inputs = draw(Case("normal", shape()), torch.Generator().manual_seed(1))
    with pytest.raises(KernelRaised, match="raised ValueError: not this one"):
        arm.call([inputs], "f32", limit_s=PATIENCE_S, phase="check")
    result = arm.call([inputs, inputs], "f32", limit_s=PATIENCE_S, phase="check")
    assert [fault(inputs, result.output(number)) for number in range(2)] == [None, None]


def test_calls_of_a_slice_have_arguments_and_results_of_their_own(confined: Laboratory) -> None:
    generator = torch.Generator().manual_seed(1)
    layouts: tuple[Layout, ...] = ("bshd", "padded", "bhsd")
    batch = [
        draw(Case("normal", shape(dtype="bf16"), layouts=(layout, "bshd", "padded")), generator) for layout in layouts
    ]
    result = confined.arm(kernel()).call(batch, "bf16", limit_s=PATIENCE_S, phase="time")
    assert [fault(inputs, out) for inputs, out in zip(batch, map(result.output, range(3)), strict=True)] == [None] * 3
    assert 0 < result.claimed_s < result.seconds


def asked(case: SequencesCase | Case) -> Arguments:
    return draw_any(case, torch.Generator().manual_seed(2))


def test_all_that_a_kernel_may_offer_is_called_with_what_it_takes(confined: Laboratory) -> None:
    arm = confined.arm(Path(everything.__file__).read_text())
    claim = Claim("cpu", ("smoke",), lse=True, varlen=True, paged=True)
    cases = [case for case in all_cases(shape(dtype="bf16"), claim, Random(1), longest=60) if case.lse][::3]
    for case in cases:
        call = asked(case)
        result = arm.call([call], "bf16", limit_s=PATIENCE_S, phase="check", guarded=True, lse=True)
        assert answer_fault(call, result.output(0), result.lse(0)) is None, case


@pytest.mark.parametrize(
    ("returned", "outcome", "words"),
    [
        ("out", "incorrect", "returned a Tensor for return_lse=True, expected a tuple (out, lse)"),
        ("[out, lse]", "incorrect", "returned a list for return_lse=True"),
        ("out, None", "rejected", "returned a NoneType as lse, expected a plain torch.Tensor"),
        ("out, lse.double()", "incorrect", "lse dtype is float64, expected float32"),
        ("out, lse[..., None]", "incorrect", "lse shape is [1, 4, 48, 1], expected [1, 4, 48]"),
        ("out.float(), lse", "incorrect", "output dtype is float32, expected bfloat16"),
        ("out, q.view(torch.float32)[..., 0]", "rejected", "lse shares memory with an input"),
    ],
)
def test_what_comes_with_a_log_sum_exp_has_a_form(
    confined: Laboratory, returned: str, outcome: str, words: str
) -> None:
    source = Path(everything.__file__).read_text()
    source += f"""
honest = attention
def attention(q, k, v, *, causal, scale, return_lse):
    out, lse = honest(q, k, v, causal=causal, scale=scale, return_lse=True)
    return {returned}
"""
    arm = confined.arm(source)
    with pytest.raises(KernelFault, match=re.escape(words)) as raised:
        arm.call([asked(Case("", shape(dtype="bf16")))], "bf16", limit_s=PATIENCE_S, phase="check", lse=True)
    assert raised.value.outcome == outcome


def test_a_frozen_process_uses_no_time(confined: Laboratory) -> None:
    burn = "threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()"
    arm = confined.arm(kernel(top=burn + "\nif os.fork() == 0:\n    while True: pass"))
    time.sleep(0.05)
    before = sum(x.cpu_s for x in processes.tree(arm.pid))
    time.sleep(0.3)
    assert sum(x.cpu_s for x in processes.tree(arm.pid)) - before <= 0.02
    arm.thaw()
    deadline = time.monotonic() + 20
    while sum(x.cpu_s for x in processes.tree(arm.pid)) - before <= 0.05:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    arm.freeze()


def test_a_flood_of_output_neither_blocks_nor_fills_memory(confined: Laboratory) -> None:
    body = "sys.stdout.write('flood ' * (50 << 18)); sys.stdout.flush(); raise RuntimeError('enough')"
    ending = confined.run(kernel(body))
    assert ending.outcome == "crashed"
    assert 1000 < len(ending.log) <= 16384
    assert "RuntimeError: enough" in ending.log


def test_the_log_has_the_traceback_of_a_failed_import(confined: Laboratory) -> None:
    assert "No module named 'no_such_module'" in confined.run(kernel(top="import no_such_module")).log


def test_a_reason_is_one_bounded_line(confined: Laboratory) -> None:
    ending = confined.run(kernel(r"raise RuntimeError('first' + 'x' * 5000 + '\nsecond')"))
    assert ending.outcome == "crashed"
    assert "\n" not in ending.reason
    assert len(ending.reason) < 600
