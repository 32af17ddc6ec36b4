"""Which kernel takes a call, and that nothing runs that was not chosen."""

from __future__ import annotations

import itertools
import json
import runpy
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Evaluation, Timing
from pytest_avo.core.fingerprint import fingerprint
from pytest_avo.kernels import attention, use, why
from pytest_avo.kernels.choice import distance, ranked
from pytest_avo.kernels.measured import SHIPPED, Measurement, of_results, shape_of
from pytest_avo.kernels.tensors import place
from pytest_avo.lineage.records import AttemptOutcome
from pytest_avo.lineage.store import Store
from tests import ROOT
from tests.kernels.measured_folder import forgotten, results, used

SHAPE = "b1-h4kv2-q1-k64-d48-full-f32"
PLAIN = """
import torch

AVO = {"target": "cpu", "shapes": ["smoke"]}


def attention(q, k, v, *, causal, scale):
    return torch.full_like(q, VALUE)
"""


LSE = """
import pathlib, torch

AVO = {"target": "cpu", "shapes": ["smoke"], "lse": True}


def attention(q, k, v, *, causal, scale, return_lse=False):
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * scale
    lse = scores.logsumexp(dim=-1, keepdim=True)[..., 0]
    if return_lse:
        asked = pathlib.Path(__file__).parents[1] / "asked"
        asked.write_text((asked.read_text() if asked.exists() else "") + pathlib.Path(__file__).stem)
    return (scores.softmax(dim=-1) @ v, lse) if return_lse else scores.softmax(dim=-1) @ v
"""


def call() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(1, 4, 1, 48), torch.randn(1, 2, 64, 48), torch.randn(1, 2, 64, 48)


def answered() -> set[float]:
    """What the call's answer consists of: each kernel here has a value of its own."""
    return set(attention(*call()).flatten().tolist())


def by_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, enable_gqa=True)


def kernel(value: str) -> str:
    return PLAIN.replace("VALUE", value)


def record(folder: Path, rows: dict[str, list[str]], name: str = "results", **given: object) -> Path:
    path = folder / f"{name}.json"
    path.write_text(results(rows, **given))  # type: ignore[arg-type]
    return path


def test_the_kernel_that_gained_most_takes_the_call(tmp_path: Path) -> None:
    with used(tmp_path, one=kernel("1.0"), two=kernel("2.0"), three=kernel("3.0")) as folder:
        files = [record(tmp_path, {f"kernels/{name}.py": [SHAPE]}, name, ratio=ratio)
                 for name, ratio in (("one", 1.5), ("two", 3.0), ("three", 1.05))]  # fmt: skip
        assert use(folder, results=files) == 3
        assert answered() == {2.0}
        assert use(folder, results=files[::2]) == 2
        assert answered() == {1.0}
        assert use(folder, results=files[2:]) == 1  # its interval holds 1
        assert why(*call()).path is None


def test_a_measurement_says_nothing_of_what_is_unlike_it() -> None:
    base = shape_of("b4-h32kv8-q1024-k1024-d128-causal-bf16")
    assert base is not None
    near = ["b4-h32kv8-q1024-k1024-d128-causal-bf16", "b4-h32kv8-q1024-k1024-d128-full-bf16",
            "b4-h32kv8-q2048-k2048-d128-causal-bf16", "b8-h8-q1024-k1024-d128-causal-bf16"]  # fmt: skip
    far = ["b4-h32kv8-q1-k1024-d128-causal-bf16", "b4-h32kv8-q1024-k1024-d64-causal-bf16",
           "b4-h32kv8-q1024-k1024-d128-causal-f16", "b4-h32kv8-q128-k1024-d128-causal-bf16",
           "b4-h32kv8-q1024-k16384-d128-causal-bf16", "b128-h32kv8-q1024-k1024-d128-causal-bf16"]  # fmt: skip
    assert [distance(base, shape_of(id_) or base) for id_ in near] == [0.0, 1.0, 2.0, 3.0]
    assert {distance(base, shape_of(id_) or base) for id_ in far} == {None}


def test_a_gain_that_the_host_takes_back_is_none() -> None:
    shape = shape_of("b1-h32kv8-q1-k8192-d128-full-bf16")
    assert shape is not None
    token = Measurement("decode.py", "", "card", "2026-11-29", shape, median_us=10.0, ratio=2.0, low=1.5)
    assert token.gain(host_us=90.0) == (0.2, 0.15)
    assert token.gain(host_us=0.0) == (2.0, 1.5)
    measured = replace(token, host_us=40.0, torch_host_us=30.0)
    assert measured.gain(host_us=90.0) == (1.0, 0.75)
    assert replace(measured, torch_host_us=60.0).gain(host_us=90.0) == (2.0, 1.5)


def test_torch_on_a_gpu_is_the_fastest_that_it_may_choose(tmp_path: Path) -> None:
    beside = {"fa2": 2.0, "cudnn": 1.1, "fa3": 0.9}
    peers = {name: {"ratio": x, "ci95": [x - 0.1, x + 0.1], "host_us": 60.0 * x} for name, x in beside.items()}
    row = {"kernel": "kernels/mha.py", "shape": SHAPE, "target": "sm90", "device": "card", "failed": False}
    path = tmp_path / "of-a-card.json"
    for timed, ratio in ((peers, 1.1), ({**peers, "torch-sdpa": {**peers["fa2"], "ratio": 1.5}}, 1.5),
                         ({"fa2": peers["fa2"]}, 2.0), ({"fa3": peers["fa3"]}, None)):  # fmt: skip
        results_of = [{**row, "median_us": 10.0, "host_us": 30.0, "peers": timed}]
        path.write_text(json.dumps({"datetime": "2026-11-29T00:00:00", "avo": {"results": results_of}}))
        found = of_results(path)
        assert [each.ratio for each in found] == ([] if ratio is None else [ratio])
        assert {each.host_us for each in found} <= {30.0}
        assert {each.torch_host_us for each in found} <= {66.0, 120.0}


def test_what_was_measured_on_a_card_takes_long_prompts() -> None:
    shape = shape_of("b1-h32kv8-q16384-k16384-d128-causal-bf16")
    assert shape is not None
    assert [winner.path.stem for winner, _ in ranked(shape, "sm90", "NVIDIA H200")][:1] == ["mha"]


def test_a_file_is_executed_only_when_it_is_chosen(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    source = kernel("1.0") + f"\nopen({str(trace)!r}, 'w').close()\n"
    with used(tmp_path, one=source) as folder:
        assert use(folder) == 0
        attention(*call())
        use(folder, results=[record(tmp_path, {"kernels/one.py": [SHAPE]})])
        assert not trace.exists()
        attention(*call())
        assert trace.exists()


def test_a_refusal_is_kept_and_a_failure_is_told(tmp_path: Path) -> None:
    raising = {"refusal": "NotImplementedError('odd')", "failure": "ZeroDivisionError('oh')"}
    for name, error in raising.items():
        place = tmp_path / name
        place.mkdir()
        body = PLAIN.replace("    return", f"    raise {error}\n    return")
        with used(place, bad=body) as folder:
            use(folder, results=[record(place, {"kernels/bad.py": [SHAPE]})])
            q, k, v = call()
            expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                for _ in range(2):
                    torch.testing.assert_close(attention(q, k, v), expected)
            assert len(told) == (name == "failure")
            assert {"refusal": "bad.py: refused: odd", "failure": "bad.py: failed: ZeroDivisionError: oh"}[name] in str(
                why(q, k, v)
            )


def test_a_lineage_speaks_for_the_text_that_it_measured(tmp_path: Path) -> None:
    fast, edited = kernel("1.0"), kernel("2.0")
    with Store.open(tmp_path / ".avo" / "lineage.sqlite3") as store:
        machine = fingerprint(target="cpu", device=place(torch.device("cpu"))[1], units=2)
        run = store.start_run(kernel="kernels/one.py", target="cpu", operator="tuner", seed=1, shapes=(SHAPE,),
                              fingerprint=machine, settings={})  # fmt: skip
        attempt = store.add_attempt(run=run.id, generation=0, member=0, parent=None, source=fast, operator="seed",
                                    hypothesis="", predicted={})  # fmt: skip
        rounds: dict[str, tuple[tuple[float, ...], ...]] = {"kernel": ((1e-3,) * 8,), "torch-sdpa": ((3e-3,) * 8,)}
        evaluation = Evaluation(SHAPE, "ok", timing=Timing(rounds, calls=1, stopped=""))
        store.add_evaluations(attempt.id, "screen", [evaluation])
        store.add_outcome(AttemptOutcome(attempt.id, "seed"))
    with used(tmp_path, one="# avo: digest=0 a provenance line is no change\n" + fast, two=edited) as folder:
        assert use(folder) == 1
        assert answered() == {1.0}
        assert "3.00x torch" in str(why(*call()))
        (folder / "one.py").write_text(edited)
        assert use(folder) == 0
        assert why(*call()).path is None


def test_gradients_come_from_the_log_sum_exp_of_a_kernel_that_claims_it(tmp_path: Path) -> None:
    shape = "b1-h4kv2-q1-k64-d48-full-f32"
    with used(tmp_path, lse=LSE, wrong=LSE.replace("lse = ", "lse = 0 * ").replace("[..., 0]", "")) as folder:
        for name in ("lse", "wrong"):
            use(folder, results=[record(tmp_path, {f"kernels/{name}.py": [shape]})])
            found = []
            for attend in (attention, by_torch):
                torch.manual_seed(0)
                q, k, v = (x.requires_grad_() for x in call())
                if name == "wrong" and attend is attention:
                    with pytest.warns(RuntimeWarning, match="log-sum-exp: expected float32"):
                        out: Any = attend(q, k, v)
                else:
                    out = attend(q, k, v)
                out.square().sum().backward()
                found.append((q.grad, k.grad, v.grad))
            torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    assert (tmp_path / "asked").read_text() == "lsewrong"


def test_other_devices_count_where_this_one_was_not_measured(tmp_path: Path) -> None:
    with used(tmp_path, here=kernel("1.0"), there=kernel("2.0")) as folder:
        far = record(tmp_path, {"kernels/there.py": [SHAPE]}, "far", device="Some Other CPU", ratio=9.0)
        near = record(tmp_path, {"kernels/here.py": [SHAPE]}, "near", ratio=2.0)
        use(folder, results=[far])
        assert answered() == {2.0}
        use(folder, results=[far, near])
        assert answered() == {1.0}


def test_bad_places_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a folder of kernels"):
        use(tmp_path / "none")
    for number, text in enumerate(("", "[]", '{"avo": 1}', '{"datetime": "x", "avo": {"results": [{}]}}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with forgotten(), pytest.raises(InvalidInput, match="expected a file that --avo-json wrote"):
            use(tmp_path, results=[path])
    with forgotten(), pytest.raises(InvalidInput, match=r"none\.json: cannot be read"):
        use(tmp_path, results=[tmp_path / "none.json"])


def test_ids_are_read_as_they_are_written() -> None:
    for suite in ("smoke", "decode", "models"):
        from pytest_avo.core.shape import read_suite

        for shape in read_suite(ROOT / f"shapes/{suite}.toml"):
            found = shape_of(shape.id)
            assert found is not None
            assert found.id == shape.id.partition("-s")[0] if shape.scale else found.id == shape.id
    assert {shape_of(bad) for bad in ("", "b1", "b1-h4kv3-q1-k1-d64-full-f32", "b0-h1-q1-k1-d64-full-f32")} == {None}


def test_what_ships_is_what_the_results_say() -> None:
    assert runpy.run_path(str(ROOT / "benchmarks/measured.py"))["table"]() == SHIPPED.read_text(encoding="utf-8")


def test_importing_it_needs_no_pytest(tmp_path: Path) -> None:
    block = "import sys; sys.modules['pytest'] = sys.modules['xdist'] = None; "
    script = block + "import pytest_avo.kernels; print({'optuna', 'openai', 'torch._dynamo'} & {*sys.modules})"
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_keys_are_few_while_a_cache_grows() -> None:
    from pytest_avo.kernels.tensors import key_of
    from pytest_avo.kernels.tensors import shape_of as shape_of_key

    keys = set()
    for batch, length in itertools.product((1, 2, 3), range(1, 300)):
        q, k = torch.empty(batch, 4, 1, 8), torch.empty(batch, 2, length, 8)
        key = key_of(q, k, k, True)
        assert key is not None
        shape = shape_of_key(key)
        assert shape is not None
        assert shape.seqlen_kv <= length < 2 * shape.seqlen_kv
        keys.add(key)
    assert len(keys) == 2 * 9
