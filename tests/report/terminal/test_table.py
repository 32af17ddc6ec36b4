from __future__ import annotations

from dataclasses import replace

import msgspec

from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import Comparison, OfKind
from pytest_avo.report.rows import ResultRow
from pytest_avo.report.terminal.table import TableLayout, layouts, table
from tests.report.result_rows import beside, row, shape

PEERS = {"fa3": beside(1.214, 1.181, 1.241)}


def column(rows: list[ResultRow], header: str, layout: TableLayout | None = None) -> list[str]:
    made = table(rows, layout or TableLayout(("fa3",)))
    return [cells[made.headers.index(header)] for cells in made.body]


def test_columns_of_a_timed_kernel() -> None:
    made = table([row(shape(), peers=PEERS)], TableLayout(("fa3",)))
    assert made.headers == ["shape", "median us", "TFLOP/s", "vs fa3", "verdict"]
    assert made.body == [("b1-h8-q512-k512-d64-causal-f32", "400.0", "0.671", "1.21 [1.18, 1.24]", "correct")]
    assert made.aligns == ["left", "right", "right", "right", "left"]


def test_a_kernel_that_was_never_timed_has_no_columns_of_figures() -> None:
    assert table([row(shape(), "crashed")], TableLayout(())).headers == ["shape", "verdict"]


def test_one_unit_of_time_suits_the_whole_table() -> None:
    rows = [row(shape(), median_us=400.0), row(shape(batch=2), median_us=90_000.0)]
    assert column(rows, "median ms", TableLayout(())) == ["0.4000", "90.00"]


def test_decode_shapes_are_shown_by_their_bandwidth() -> None:
    assert column([row(shape(queries=1))], "GB/s") == ["5.25"]
    assert column([row(shape(queries=16))], "GB/s") == ["5.41"]
    assert column([row(shape(queries=17))], "GFLOP/s") == ["22.3"]
    slow = [row(shape(queries=1), median_us=1e6)]
    assert [each.header for each in table(slow, TableLayout(())).columns][2] == "MB/s"


def test_a_mixed_table_names_the_unit_in_each_cell() -> None:
    rows = [row(shape()), row(shape(queries=1)), row(shape(batch=2), "timeout")]
    assert column(rows, "throughput") == ["0.671 TFLOP/s", "5.25 GB/s", "-"]


def test_how_near_the_device_s_best_a_kernel_comes_is_a_column_where_that_is_known() -> None:
    made = row(shape(), peers=PEERS)
    assert made.timing is not None
    known = msgspec.structs.replace(made, timing=msgspec.structs.replace(made.timing, least_s=0.00062))
    rows = [known, row(shape(batch=2)), row(shape(batch=3), "rejected")]
    assert column(rows, "roofline") == ["62%", "-", "-"]
    wide, *narrow = layouts(rows)
    assert "roofline" in table(rows, wide).headers
    assert "roofline" not in table(rows, narrow[1]).headers
    assert "roofline" not in table(rows[1:], wide).headers


def test_what_calls_cost_the_host_is_a_column_where_that_is_much_of_the_device_s_time() -> None:
    slow = msgspec.structs.replace(PEERS["fa3"], host_us=122.0, idle_us=1320.0)
    made = row(shape(), peers={"fa3": slow})
    costly = replace_verdict(made, "sm90", host_us=41.0, idle_us=500.0)
    cheap = replace_verdict(row(shape(batch=2), peers=PEERS), "sm90", host_us=39.0, idle_us=430.0)
    assert column([costly, cheap], "host us") == ["41.0, fa3 122", "-"]
    assert column([costly, cheap], "from rest us") == ["500", "-"]
    assert "host us" not in table([cheap], TableLayout(("fa3",))).headers
    assert "host us" not in table([replace_verdict(made, "cpu", host_us=400.0)], TableLayout(("fa3",))).headers
    narrow = next(each for each in layouts([costly]) if not each.calls)
    assert "host us" not in table([costly], narrow).headers


def replace_verdict(of: ResultRow, target: str, **figures: float) -> ResultRow:
    verdict = msgspec.structs.replace(of.verdict, **figures)
    return msgspec.structs.replace(of, target=target, verdict=verdict)


def test_an_absent_peer_leaves_a_dash() -> None:
    rows = [row(shape(), peers=PEERS), row(shape(batch=2))]
    assert column(rows, "vs fa3") == ["1.21 [1.18, 1.24]", "-"]
    assert column(rows, "fa3", TableLayout(("fa3",), intervals=False)) == ["1.21", "-"]


def test_shapes_leave_what_they_share_to_the_caption() -> None:
    rows = [row(shape(batch=1)), row(shape(batch=2, seqlen=4096))]
    made = table(rows, TableLayout((), whole_shapes=False))
    assert [line[0] for line in made.body] == ["b1-q512-k512", "b2-q4096-k4096"]
    assert made.caption == "every shape: h8-d64-causal-f32"


def test_a_lone_shape_keeps_its_name() -> None:
    made = table([row(shape())], TableLayout((), whole_shapes=False))
    assert (made.body[0][0], made.caption) == (shape().id, "")


def test_a_shape_that_has_nothing_of_its_own_is_still_told_apart() -> None:
    plain = shape()
    scaled = Shape(**{name: getattr(plain, name) for name in plain.__struct_fields__} | {"scale": 0.5})
    made = table([row(plain), row(scaled)], TableLayout((), whole_shapes=False))
    assert [line[0] for line in made.body] == ["-", "s0.5"]


def test_the_fastest_of_several_peers_is_named_and_a_single_one_is_not() -> None:
    two = {**PEERS, "flex": beside(0.7, 0.6, 0.8)}
    made = table([row(shape(), peers=two), row(shape(batch=2), peers=PEERS)], TableLayout(("fa3", "flex")))
    assert [line[made.headers.index("best peer")] for line in made.body] == ["flex", "-"]
    assert "best peer" not in table([row(shape(), peers=PEERS)], TableLayout(("fa3",))).headers


def test_details_are_rounds_and_seed() -> None:
    made = table([row(shape(), seed=42), row(shape(batch=2), "crashed", seed=43)], TableLayout((), details=True))
    assert made.headers[-2:] == ["rounds", "seed"]
    assert [line[-2:] for line in made.body] == [("3", "42"), ("-", "43")]


def test_layouts_give_up_intervals_first_then_the_roofline_then_shapes_then_kinds_of_inputs_then_peers() -> None:
    rows = [row(shape(), peers={**PEERS, "flex": beside(1, 0.9, 1.1)})]
    full = TableLayout(("fa3", "flex"))
    plain = replace(full, intervals=False)
    bare = replace(plain, roofline=False, best=False)
    short = replace(bare, whole_shapes=False)
    costless = replace(short, calls=False)
    bound = replace(costless, kinds=False)
    fewer = [replace(bound, peers=peers) for peers in (("fa3",), ())]
    assert layouts(rows) == [full, plain, bare, short, costless, bound, *fewer]


def test_the_worst_kind_of_inputs_is_a_column_where_kinds_differ_beyond_the_noise() -> None:
    def peer(spread: OfKind) -> dict[str, Comparison]:
        kinds = {"normal": OfKind(1.3, (1.2, 1.4)), "spread": spread}
        return {"fa3": msgspec.structs.replace(PEERS["fa3"], kinds=kinds)}

    differing, alike = OfKind(0.87, (0.85, 0.9)), OfKind(1.1, (0.9, 1.3))
    rows = [row(shape(), peers=peer(differing)), row(shape(batch=2), peers=peer(alike))]
    assert column(rows, "worst inputs") == ["fa3 0.87 spread", "-"]
    assert "worst inputs" not in table(rows[1:], TableLayout(("fa3",))).headers
    assert "worst inputs" not in table(rows, TableLayout(("fa3",), kinds=False)).headers
