"""The calls that a kernel must get right for one shape.

At the claimed shape a kernel may refuse nothing. Beside it whatever a call consists of is varied, all of it at once:
in some row of a covering array every two choices meet. On these a kernel may refuse, but must not answer wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, get_args

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.inputs import Case
from pytest_avo.evaluation.correctness.kinds import Kind
from pytest_avo.evaluation.correctness.layouts import Layout
from pytest_avo.evaluation.correctness.sizes.beside import (
    LONGEST_BESIDE,
    MANY_KEYS,
    MOST_BATCHES_BESIDE,
    OFF,
    SOME_CALLS,
    SOME_LENGTHS,
    Edges,
    at_large_edge,
    changed,
    edges_of_tiles,
    far_beyond,
    heads_of,
    lengths_of,
    many_heads,
    of_one_size,
    of_some_groups,
    one_key,
    scale_of,
)
from pytest_avo.evaluation.correctness.sizes.covering import Levels, covering

BLIND = {"more queries", "more than keys"}
"""Choices of which, with the causal mask, some queries see no key."""
LSE_SHARE = 3
"""Of so many calls beside the claimed shape one asks for the log-sum-exp, of a kernel that has it."""
KINDS: tuple[Kind, ...] = get_args(Kind)
ORDERED: tuple[Layout, ...] = ("bshd", "bhsd", "sbhd")
GAPS: tuple[Layout, ...] = ("padded", "slots", "cache")
REPEATED: tuple[Layout, ...] = ("one batch", "one head")
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "models'": ("bshd",), "other order": ("bhsd", "sbhd"), "gaps": GAPS, "repeated": REPEATED,
}  # fmt: skip
FACTORS: dict[str, tuple[str, ...]] = {
    "mask": ("causal", "full"),
    "lengths": ("equal", "more keys", "more queries", "one query"),
    "batch": ("one", "several"),
    "heads": ("claimed", "equal", "grouped", "one for all"),
    "scale": ("usual", "small", "one", "large"),
    "q": ("models'", "other order", "gaps", "repeated"),
    "k": ("models'", "other order", "gaps", "repeated"),
    "v": ("models'", "other order", "gaps", "repeated"),
    "vectors": ("aligned", "odd"),
    "kind": KINDS,
}
TOGETHER: dict[str, tuple[str, ...]] = {"kind": ("mask",), "vectors": ("lengths",)}
"""Of these factors only the pairs with the factors named need to meet: a kernel that treats a kind wrongly does so in
any layout, and each alignment beside each layout may be a build of its own."""
WITH_HEADS: dict[str, tuple[str, ...]] = {
    **{name: ("heads",) for name in FACTORS if name not in ("heads", "kind")}, "kind": (),
}  # fmt: skip
"""The same where all others met beside a shape of other heads."""
Extent = Literal["all", "heads", "nothing"]
"""Of the calls beside a shape: all, those that take over its heads, or none."""


def battery(
    shape: Shape,
    random: Random,
    *,
    longest: int = LONGEST_BESIDE,
    place: str = "cpu",
    lse: bool = False,
    beside: Extent = "all",
) -> list[Case]:
    """The single plain calls to check for a shape, in random order after the first; slices are checked besides.

    longest: of the lengths beside the claimed ones; place: kind of torch device. On a GPU every vector of 16 bytes is
    aligned, as the contract says: torch's own attention ends in a misaligned address otherwise. lse: of a kernel that
    returns a log-sum-exp too, which is asked for at the claimed shape and in some of the calls beside it. beside:
    which calls beside the claimed shape; see `beside_once`.
    """
    factors = FACTORS if place == "cpu" else {**FACTORS, "vectors": ("aligned",)}
    levels, together = _choices(factors, beside)
    rows = [] if beside == "nothing" else covering(levels, random, together=together)
    if lse:
        ask_some(rows, random)
    layouts, edges = random.sample([*ORDERED, *GAPS], k=3), (edges_of_tiles(random), edges_of_tiles(random))
    rest = [
        Case("needle, layouts that differ", shape, "needle", (layouts[0], layouts[1], layouts[2])),
        *(_beside(shape, row, random, longest, edges) for row in rows),
        *(_of_lengths_that_matter(shape, random, longest) if beside == "all" else []),
        *([] if beside == "nothing" else [outliers_in_some(shape, random)]),
    ]
    random.shuffle(rest)
    return [first_case(shape, random, lse=lse), *rest]


def ask_some(rows: Sequence[Levels], random: Random) -> None:
    """Have some rows ask for a log-sum-exp, in place: few, since a kernel may need a build of its own for each.

    In one of them there are queries that see no key, in one sequences without keys.
    """
    blind = [row for row in rows if row["mask"] == "causal" and not BLIND.isdisjoint(row.values())]
    empty = [row for row in rows if row["lengths"] == "some empty"]
    one_each = [random.choice(each) for each in (blind, empty) if each]
    for row in [*random.sample(rows, k=len(rows) // LSE_SHARE), *one_each]:
        row["lse"] = "asked"


def first_case(shape: Shape, random: Random, *, lse: bool = False) -> Case:
    """The call that comes first, with inputs as they are timed: most kernels that are wrong are so here.

    lse: of a kernel that returns a log-sum-exp too, which is asked for here; without it the calls of slices are made.
    """
    return Case("normal", shape, random.choice(("normal", "plain")), lse=lse)


def asked_instead(shape: Shape, random: Random, *, place: str = "cpu", lse: bool = False) -> list[Case]:
    """Calls at the claimed shape for a kernel that refuses some beside it, where what it refuses would have been seen.

    Every layout of every tensor, with inputs of many kinds; of a log-sum-exp every one but the usual. What kernels may
    decline elsewhere (odd rows, repeated ones) they may decline here.
    """
    columns = [random.sample([*ORDERED, *GAPS], k=len(ORDERED) + len(GAPS)) for _ in "qkv"]
    layouts = list(zip(*columns, strict=True))
    declined: list[tuple[Layout, Layout, Layout]] = [("bshd", random.choice(REPEATED), random.choice(REPEATED))]
    declined += [("odd", "odd", "odd")] if place == "cpu" else []
    others = [kind for kind in KINDS if kind not in ("needle", "outliers")]
    kinds: list[Kind] = ["outliers", "outliers", *random.sample(others, k=len(layouts) + len(declined) - 2)]
    cases = [
        Case(f"{kind}, as others are refused", shape, kind, (q, k, v), required=(q, k, v) not in declined, lse=lse)
        for kind, (q, k, v) in zip(kinds, [*layouts, *declined], strict=True)
    ]
    random.shuffle(cases)
    return cases


def _choices(
    factors: dict[str, tuple[str, ...]], beside: Extent
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """The levels of all factors, and which pairs of factors are to meet."""
    if beside == "heads":
        return {**factors, "heads": ("claimed",)}, WITH_HEADS
    return factors, TOGETHER


def beside_once(shapes: Sequence[Shape]) -> dict[str, Extent]:
    """What is asked beside each shape of a request, by its id: nothing twice that would be alike.

    It depends on head dimension and dtype, and in some calls on heads; a suite's lengths and batches would only have
    it repeated.
    """
    found: dict[str, Extent] = {}
    builds: set[tuple[object, ...]] = set()
    heads: set[tuple[object, ...]] = set()
    for shape in shapes:
        build = (shape.head_dim, shape.dtype)
        of_heads = (*build, shape.heads_q, shape.heads_kv)
        found[shape.id] = "nothing" if of_heads in heads else "heads" if build in builds else "all"
        builds.add(build)
        heads.add(of_heads)
    return found


def judged_in_full(shapes: Sequence[Shape]) -> set[str]:
    """Of the shapes of a screening that share heads, head dimension, dtype and mask, the one with the fewest scores.

    Ids of those at which an exact reference tells of every element, and all that is claimed is asked: it takes longer
    the more scores there are, and a kernel's code for the others differs by lengths. Outputs there are looked at as
    those of slices are.
    """
    return _least_of_each(shapes, work=_scores, alike=lambda x: (x.heads_q, x.heads_kv, x.head_dim, x.dtype, x.causal))


def called_in_a_row(shapes: Sequence[Shape]) -> set[str]:
    """Ids of the shapes with the least work of each head dimension and dtype: kernels have other code for each."""
    return _least_of_each(shapes, work=lambda x: x.flops, alike=lambda x: (x.head_dim, x.dtype))


def _least_of_each(
    shapes: Sequence[Shape], *, work: Callable[[Shape], float], alike: Callable[[Shape], tuple[object, ...]]
) -> set[str]:
    """Ids of the shapes that take least work among those that are alike."""
    least: dict[tuple[object, ...], str] = {}
    for shape in sorted(shapes, key=work):
        least.setdefault(alike(shape), shape.id)
    return set(least.values())


def _scores(shape: Shape) -> int:
    return shape.batch * shape.heads_q * shape.seqlen_q * shape.seqlen_kv


def outliers_in_some(shape: Shape, random: Random) -> Case:
    """Many small calls with outliers in half of the entries and heads: those at which a kernel does not look."""
    queries, keys = (random.randint(most // 2, most) for most in SOME_LENGTHS)
    some = changed(of_some_groups(shape), {"seqlen_q": queries, "seqlen_kv": keys, "causal": random.random() < 0.5})
    return Case("outliers in some heads of some calls", some, "outliers", required=False, times=SOME_CALLS)


def _beside(shape: Shape, row: Levels, random: Random, longest: int, edges: tuple[Edges, Edges]) -> Case:
    lengths = lengths_of(row["lengths"], random, longest, *edges)
    changes: dict[str, object] = {
        "causal": row["mask"] == "causal",
        "batch": 1 if row["batch"] == "one" else random.randint(2, MOST_BATCHES_BESIDE),
        **dict(zip(("heads_q", "heads_kv"), heads_of(row["heads"], shape, random), strict=True)),
        **dict(zip(("seqlen_q", "seqlen_kv"), lengths, strict=True)),
        "scale": scale_of(row["scale"], random),
    }
    layouts = [LAYOUTS[row[name]] for name in "qkv"]
    q, k, v = ("odd" if row["vectors"] == "odd" and x != REPEATED else random.choice(x) for x in layouts)
    kind: Kind = next(kind for kind in KINDS if kind == row["kind"])
    return Case(kind, changed(shape, changes), kind, (q, k, v), required=False, lse=row.get("lse") == "asked")


def _of_lengths_that_matter(shape: Shape, random: Random, longest: int) -> list[Case]:
    """Keys so many that sums in half precision stand still, or few; two queries; jumps that some queries do not see."""
    few: dict[str, object] = {"batch": 1, "heads_q": 2, "heads_kv": 1, "scale": None}
    offs = random.sample(OFF, k=len(OFF))
    keys = at_large_edge(random.randint(*MANY_KEYS) * longest, offs[0])
    many = changed(shape, {**few, "seqlen_q": 1, "seqlen_kv": keys, "causal": False})
    length = random.randint(longest // 4, longest * 2 // 3)
    jump = changed(shape, {**few, "seqlen_q": length, "seqlen_kv": length, "causal": True})
    drafts: dict[str, object] = {"batch": 2, "heads_q": 4, "heads_kv": 2, "scale": None, "causal": True}
    tokens = changed(shape, {**drafts, "seqlen_q": 2, "seqlen_kv": random.randint(longest // 2, longest)})
    layouts = random.sample([*ORDERED, *GAPS], k=3)  # of tensors of one shape, in one call, no two lie alike
    usual: tuple[Kind, ...] = ("normal", "plain")  # a needle does not tell who sees one key more
    return [
        Case("two queries", tokens, random.choice(usual), required=False),
        *(
            Case("few keys of many heads", each, random.choice(usual), required=False)
            for each in many_heads(shape, random)
        ),
        *(
            Case("beyond other lengths", each, "plain", required=False)
            for each in far_beyond(shape, random, longest, offs[1:])
        ),
        *(Case("one key", each, random.choice(usual), required=False) for each in one_key(shape, random)),
        *(
            Case("sizes as before", each, random.choice(usual), (layouts[0], layouts[1], layouts[2]), required=False)
            for each in of_one_size(shape, random)
        ),
        Case("many keys", many, "shifted", required=False),
        # Of an offset half of them may be left out; sums of huge ones overflow half precision unless they are divided.
        Case("many keys, zero mean", many, "huge", required=False),
        Case("rising by a jump", jump, "rising", required=False),
    ]
