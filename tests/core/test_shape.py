"""Shapes and suites: what they count, what they refuse, and that the shipped ones are the grids they claim to be."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.shape import DTYPE_BYTES, Dtype, Shape, SuiteFolders, read_suite
from tests import ROOT

TABLE = {
    "batch": "4",
    "heads_q": "32",
    "heads_kv": "8",
    "seqlen_q": "128",
    "seqlen_kv": "256",
    "head_dim": "64",
    "causal": "true",
    "dtype": '"bf16"',
}
SHIPPED = sorted(path.stem for path in (ROOT / "shapes").glob("*.toml"))
Size = tuple[int, int, int, int, int, int, bool]
"""batch, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim, causal."""


def table(**changes: str | None) -> str:
    """One [[shape]] table; None leaves a key out."""
    lines = [f"{key} = {value}" for key, value in {**TABLE, **changes}.items() if value is not None]
    return "\n".join(["[[shape]]", *lines, ""])


def shape(
    *,
    batch: int = 2,
    heads: tuple[int, int] = (8, 2),
    lengths: tuple[int, int] = (128, 256),
    head_dim: int = 64,
    causal: bool = False,
    dtype: Dtype = "f32",
    scale: float | None = None,
) -> Shape:
    return Shape(
        batch=batch,
        heads_q=heads[0],
        heads_kv=heads[1],
        seqlen_q=lengths[0],
        seqlen_kv=lengths[1],
        head_dim=head_dim,
        causal=causal,
        dtype=dtype,
        scale=scale,
    )


def sizes(suite: str) -> set[Size]:
    return {
        (x.batch, x.heads_q, x.heads_kv, x.seqlen_q, x.seqlen_kv, x.head_dim, x.causal)
        for x in read_suite(ROOT / "shapes" / f"{suite}.toml")
    }


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


@pytest.mark.parametrize(
    ("given_shape", "expected"),
    [
        (
            shape(batch=4, heads=(32, 8), lengths=(4096, 4096), head_dim=128, causal=True, dtype="bf16"),
            "b4-h32kv8-q4096-k4096-d128-causal-bf16",
        ),
        (shape(batch=1, heads=(8, 8), lengths=(1, 300)), "b1-h8-q1-k300-d64-full-f32"),
        (shape(batch=1, heads=(8, 8), lengths=(1, 300), scale=0.5), "b1-h8-q1-k300-d64-full-f32-s0.5"),
        (shape(batch=1, heads=(4, 1), lengths=(7, 7), dtype="f16", causal=True), "b1-h4kv1-q7-k7-d64-causal-f16"),
    ],
)
def test_an_id_is_generated_from_what_is_computed(given_shape: Shape, expected: str) -> None:
    assert given_shape.id == expected


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 64), st.integers(1, 8), st.integers(1, 9), st.integers(1, 9999), st.integers(1, 9999)),
    st.booleans(),
    st.sampled_from(sorted(DTYPE_BYTES)),
)
def test_different_problems_have_different_ids(
    size: tuple[int, int, int, int, int], causal: bool, dtype: Dtype
) -> None:
    batch, group, heads_kv, seqlen_q, seqlen_kv = size
    heads = (group * heads_kv, heads_kv)
    one = shape(batch=batch, heads=heads, lengths=(seqlen_q, seqlen_kv), causal=causal, dtype=dtype)
    others = [
        shape(batch=batch + 1, heads=heads, lengths=(seqlen_q, seqlen_kv), causal=causal, dtype=dtype),
        shape(batch=batch, heads=(2 * heads[0], heads_kv), lengths=(seqlen_q, seqlen_kv), causal=causal, dtype=dtype),
        shape(batch=batch, heads=heads, lengths=(seqlen_q + 1, seqlen_kv), causal=causal, dtype=dtype),
        shape(batch=batch, heads=heads, lengths=(seqlen_q, seqlen_kv), causal=not causal, dtype=dtype),
        shape(batch=batch, heads=heads, lengths=(seqlen_q, seqlen_kv), causal=causal, dtype=dtype, scale=0.1),
    ]
    assert len({x.id for x in [one, *others]}) == 1 + len(others)


def test_weight_and_source_do_not_make_another_problem() -> None:
    fields = {name: getattr(shape(), name) for name in shape().__struct_fields__}
    assert Shape(**{**fields, "weight": 3.0, "source": "a paper"}).id == shape().id


def test_the_scale_is_the_shapes_own_or_follows_the_head() -> None:
    assert shape(head_dim=64).softmax_scale == pytest.approx(1 / math.sqrt(64))
    assert shape(scale=0.3).softmax_scale == 0.3


def test_flops_are_those_of_two_products_and_half_of_them_under_a_mask() -> None:
    full = 4 * 2 * 8 * 128 * 256 * 64
    assert shape().flops == full
    assert shape(causal=True).flops == full / 2


@pytest.mark.parametrize(("dtype", "size"), [("f32", 4), ("bf16", 2), ("f16", 2)])
def test_bytes_are_each_tensor_once(dtype: Dtype, size: int) -> None:
    q_and_out, k_and_v = 2 * (2 * 8 * 128 * 64), 2 * (2 * 2 * 256 * 64)
    assert shape(dtype=dtype).bytes_moved == size * (q_and_out + k_and_v)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shape = ", "not valid TOML"),
        ("", "key shape: missing"),
        ("shape = []", "key shape: expected [[shape]] tables of length >= 1"),
        ("[shape]\nbatch = 1\n", "key shape: expected [[shape]] tables, got table"),
        ("shape = [3]", "[[shape]] table 1: expected table, got int"),
        ("description = 4\n" + table(), "key description: expected str, got int"),
        ("title = 'x'\n" + table(), "key title: unknown, expected one of shape, description"),
        (table(batch="0"), "[[shape]] table 1, key batch: expected int >= 1"),
        (table(seqlen_q=str(10**24)), "[[shape]] table 1, key seqlen_q: expected int <= 2147483647"),
        (table(batch="-3"), "[[shape]] table 1, key batch: expected int >= 1"),
        (table(seqlen_q="1.5"), "[[shape]] table 1, key seqlen_q: expected int, got float"),
        (table(seqlen_kv='"4k"'), "[[shape]] table 1, key seqlen_kv: expected int, got str"),
        (table(head_dim="4096"), "[[shape]] table 1, key head_dim: expected int <= 1024"),
        (table(heads_kv=None), "[[shape]] table 1, key heads_kv: missing"),
        (table(heads_kv="5"), "[[shape]] table 1: heads_q must be a multiple of heads_kv, got 32 and 5"),
        (table(causal="1"), "[[shape]] table 1, key causal: expected bool, got int"),
        (table(dtype='"fp8"'), "[[shape]] table 1, key dtype: expected one of f32, bf16, f16, got 'fp8'"),
        (table(weight="0"), "[[shape]] table 1, key weight: expected float > 0.0"),
        (table(weight="nan"), "[[shape]] table 1, key weight: expected float"),
        (table(weight="inf"), "[[shape]] table 1, key weight: expected float <= 1000000.0"),
        (table(scale="-0.5"), "[[shape]] table 1, key scale: expected float > 0.0"),
        (table(heads="4"), "[[shape]] table 1, key heads: unknown, expected one of batch, heads_q,"),
        (table() + table(batch='"2"'), "[[shape]] table 2, key batch: expected int, got str"),
        (
            table() + table(batch="2") + table(weight="2.0"),
            "[[shape]] table 3 repeats table 1 (b4-h32kv8-q128-k256-d64-causal-bf16): expected distinct shapes",
        ),
    ],
)
def test_a_wrong_suite_is_named_with_table_key_and_expectation(suite: Path, text: str, expected: str) -> None:
    suite.write_text(text)
    with pytest.raises(InvalidInput) as error:
        read_suite(suite)
    assert str(error.value).startswith(f"{suite}: {expected}")


def test_a_suite_that_is_no_text_is_named(suite: Path) -> None:
    suite.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match=r"mine\.toml: not valid TOML"):
        read_suite(suite)


def test_the_first_folder_that_has_a_suite_wins(tmp_path: Path) -> None:
    ours, shipped = tmp_path / "ours", tmp_path / "shipped"
    for folder, batch in ((ours, "1"), (shipped, "2")):
        folder.mkdir()
        (folder / "both.toml").write_text(table(batch=batch))
    (shipped / "other.toml").write_text(table())
    folders = SuiteFolders((ours, shipped))
    assert folders.names() == ["both", "other"]
    assert [x.batch for x in folders.shapes("both")] == [1]
    assert [x.batch for x in folders.shapes("other")] == [4]


def test_an_unknown_suite_is_answered_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(table())
    with pytest.raises(InvalidInput, match="unknown shape suite 'huge': expected one of tiny"):
        SuiteFolders((tmp_path,)).shapes("huge")


def test_a_place_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"/x+\.toml: cannot be read: File name too long"):
        SuiteFolders((tmp_path,)).shapes("x" * 300)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(table(), encoding="utf-8-sig")
    assert len(read_suite(path)) == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_suites_are_right_and_described(name: str) -> None:
    path = ROOT / "shapes" / f"{name}.toml"
    assert read_suite(path)
    assert "description = " in path.read_text()


def test_all_suites_are_shipped() -> None:
    wanted = {"smoke", "prefill-cpu", "decode-cpu", "mha", "gqa", "hdim", "decode", "models", "quickstart"}
    wanted |= {"short", "chunked", "decode-small"}
    assert set(SHIPPED) >= wanted


GRID = [(8, 4096), (4, 8192), (2, 16384), (1, 32768)]
"""Batch and sequence length of the paper: 32k tokens in all."""


def test_mha_is_the_papers_grid() -> None:
    assert sizes("mha") == {(b, 16, 16, n, n, 128, causal) for (b, n), causal in product(GRID, (False, True))}


def test_gqa_is_the_papers_grid() -> None:
    expected = {(b, 32, kv, n, n, 128, causal) for (b, n), kv, causal in product(GRID, (4, 8), (False, True))}
    assert sizes("gqa") == expected


@pytest.mark.parametrize("name", ["decode-odd", "prefill-odd"])
def test_no_tile_divides_the_lengths_of_odd_suites(name: str) -> None:
    assert not any(x.seqlen_kv % 32 == 0 for x in read_suite(ROOT / "shapes" / f"{name}.toml"))


@pytest.mark.parametrize("name", ["mha", "gqa", "hdim", "decode", "short", "chunked", "decode-small"])
def test_the_grids_are_in_bfloat16(name: str) -> None:
    assert {x.dtype for x in read_suite(ROOT / "shapes" / f"{name}.toml")} == {"bf16"}


def test_hdim_has_the_other_head_sizes() -> None:
    assert {size[5] for size in sizes("hdim")} == {64, 256}
    assert {size[6] for size in sizes("hdim")} == {False, True}


def test_decode_reaches_from_one_short_to_many_and_one_long_sequence() -> None:
    found = sizes("decode")
    assert {size[3] for size in found} == {1}
    for heads in ((32, 8), (64, 8)):
        grid = {(size[0], size[4]) for size in found if size[1:3] == heads}
        assert grid >= {(1, 8192), (64, 4096), (1, 65536)}


def test_short_has_prompts_of_512_to_2048_tokens() -> None:
    found = sizes("short")
    assert {size[3] for size in found} == {size[4] for size in found} == {512, 1024, 2048}
    assert {size[0] for size in found} >= {1, 4, 8, 16, 32}
    assert {(size[5], size[6]) for size in found} == {(64, False), (64, True), (128, False), (128, True)}


def test_chunked_has_the_last_512_to_2048_queries_of_a_long_cache() -> None:
    found = sizes("chunked")
    assert {size[3] for size in found} == {512, 1024, 2048}
    assert {size[4] for size in found} == {8192, 16384, 32768, 65536}
    assert all(size[6] for size in found)


def test_decode_small_has_few_sequences_and_few_queries() -> None:
    found = sizes("decode-small")
    assert {size[0] for size in found} == {1, 2, 4, 8}
    assert {size[3] for size in found} == {1, 2, 4, 8, 16}
    assert {1024, 32768} <= {size[4] for size in found}
    assert any(size[5] == 64 and size[1] == size[2] for size in found)


def test_smoke_reaches_every_branch() -> None:
    shapes = read_suite(ROOT / "shapes" / "smoke.toml")
    assert {x.causal for x in shapes} == {False, True}
    assert {x.dtype for x in shapes} >= {"f32", "bf16"}
    assert {x.heads_q == x.heads_kv for x in shapes} == {False, True}
    assert any(x.seqlen_q < x.seqlen_kv for x in shapes)
    assert any(x.seqlen_q > x.seqlen_kv for x in shapes)
    assert any(x.seqlen_kv % 2 for x in shapes)
    assert any(x.seqlen_q == 1 for x in shapes)


def test_models_name_their_source() -> None:
    shapes = read_suite(ROOT / "shapes" / "models.toml")
    assert all(x.source for x in shapes)


def test_inputs_of_a_suite_hold_for_shapes_that_name_none(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    own = table(batch="2", inputs='["rising"]')
    path.write_text('inputs = ["normal", "sink"]\n' + table() + own)
    assert [shape.inputs for shape in read_suite(path)] == [("normal", "sink"), ("rising",)]
    path = tmp_path / "b.toml"
    path.write_text(table())
    assert read_suite(path)[0].inputs == ("normal",)


@pytest.mark.parametrize(
    ("head", "own", "reason"),
    [
        ('inputs = ["odd"]', None, "key inputs: expected one of normal, spread, sink"),
        ("inputs = []", None, "key inputs: expected"),
        ('inputs = ["sink", "sink"]', None, "inputs must be distinct kinds, got sink, sink"),
        ("", '["odd"]', r"\[\[shape\]\] table 1, key inputs: expected one of normal, spread, sink"),
        ("", '"sink"', r"\[\[shape\]\] table 1, key inputs: expected a list of kinds, got str"),
    ],
)
def test_unknown_kinds_of_inputs_are_refused_with_those_there_are(
    tmp_path: Path, head: str, own: str | None, reason: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"{head}\n" + table(inputs=own))
    with pytest.raises(InvalidInput, match=reason):
        read_suite(path, ("normal", "spread", "sink"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_suites_are_timed_on_several_kinds_of_inputs(name: str) -> None:
    for shape in read_suite(ROOT / "shapes" / f"{name}.toml"):
        assert {"normal", "spread", "sink"} <= set(shape.inputs)
