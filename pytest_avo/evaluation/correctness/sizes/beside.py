"""Shapes of the calls beside a claimed one: their lengths, heads and scales.

Kernels go wrong at the ends of their tiles, beyond the lengths and heads that they were tried with, and where a
dimension is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import msgspec

from pytest_avo.core.shape import Shape

LONGEST_BESIDE = 300
MOST_BATCHES_BESIDE = 3
MOST_HEADS_BESIDE = 6
"""Bounds of the shapes that are checked beside the claimed one; of its heads there may be more."""
Edges = list[tuple[int, int]]
OFF = (-1, 0, 1)
TILES = (16, 32, 64), (96, 128, 192, 256)
"""Of so many queries or keys: at the end of one, or one off, kernels go wrong. Ends of large ones end small ones."""
LARGE_TILE = 512
"""Of keys, and of queries: at its ends there are lengths beyond most others."""
FEW = 8
"""At most so many queries that a kernel may take for one, as drafts of tokens have them, and keys that make no tile."""
MANY_BATCHES, MANY_HEADS = 9, 12
"""Of a call with few keys, which costs little: a batch beyond what others have, and key/value heads."""
SOME_GROUPS, SOME_CALLS = 4, 16
"""At most so many key/value heads in all entries of a batch, and calls: of both half of the former have an outlier."""
SOME_LENGTHS = (16, 96)
"""Queries and keys of these at most."""
EDGE_SHARE = 0.7
"""Of the lengths beside the claimed ones, those drawn at an edge, where there is one."""
MANY_KEYS = (31, 36)
"""Times the longest length: sums in bfloat16 over blocks of 16 keys do not get on there."""


def largest_together(shape: Shape) -> tuple[Shape, int]:
    """A shape that needs as much memory as any of the calls beside one that are made together, and how many are."""
    return of_some_groups(shape), SOME_CALLS


def largest_beside(shape: Shape) -> Shape:
    """A shape that needs at least the memory of any other than `shape` itself in its battery."""
    heads = max(shape.heads_q, MOST_HEADS_BESIDE)
    keys = max(LONGEST_BESIDE, MANY_KEYS[1] * LONGEST_BESIDE // (MOST_BATCHES_BESIDE * heads))
    most = {"seqlen_q": LONGEST_BESIDE, "seqlen_kv": keys, "heads_q": heads, "heads_kv": heads}
    return changed(shape, {"batch": MOST_BATCHES_BESIDE, **most})


def of_some_groups(shape: Shape) -> Shape:
    """A shape of few groups of heads, with the groups' size of the given one, and few queries and keys."""
    heads_kv = min(shape.heads_kv, SOME_GROUPS // 2)
    heads = {"heads_q": heads_kv * shape.heads_q // shape.heads_kv, "heads_kv": heads_kv}
    lengths = dict(zip(("seqlen_q", "seqlen_kv"), SOME_LENGTHS, strict=True))
    return changed(shape, {"batch": SOME_GROUPS // heads_kv, **heads, **lengths, "scale": None})


def many_heads(shape: Shape, random: Random) -> list[Shape]:
    """Few keys, which cost little: of large groups of heads in many entries, and of many heads without groups."""
    heads_kv, equal = random.choice((2, 3)), random.randint(MANY_HEADS - 3, MANY_HEADS)
    found = []
    for batch, heads_q, heads in ((MANY_BATCHES, heads_kv * random.randint(4, 8), heads_kv), (2, equal, equal)):
        sizes = {"batch": batch, "heads_q": heads_q, "heads_kv": heads}
        lengths = {"seqlen_q": random.randint(2, FEW), "seqlen_kv": random.randint(1, FEW)}
        found.append(changed(shape, {**sizes, **lengths, "scale": None, "causal": True}))
    return found


def one_key(shape: Shape, random: Random) -> list[Shape]:
    """One key, of one query (heads in groups or not) and of several: for who drops dimensions of 1, or has no tile."""
    causal, sizes = random.random() < 0.5, {"batch": 2, "heads_q": 4, "seqlen_kv": 1, "scale": None}
    one, several = random.sample((2, 4), k=2)
    calls = ((1, causal, one), (random.randint(2, FEW), not causal, several), (1, not causal, several))
    return [
        changed(shape, {**sizes, "seqlen_q": queries, "causal": masked, "heads_kv": heads_kv})
        for queries, masked, heads_kv in calls
    ]


def of_one_size(shape: Shape, random: Random) -> list[Shape]:
    """Small calls, each like the first but for mask, scale or group: what a kernel keeps by sizes may lack these."""
    length = random.randint(2 * FEW, SOME_LENGTHS[1])
    usual = {"batch": 2, "heads_q": 4, "heads_kv": 2, "scale": None, "causal": True}
    sizes = {"seqlen_q": length, "seqlen_kv": length}
    others: tuple[dict[str, object], ...] = (
        {}, {"causal": False}, {"scale": scale_of(random.choice(("small", "one", "large")), random)}, {"heads_kv": 4},
    )  # fmt: skip
    return [changed(shape, {**usual, **sizes, **other}) for other in others]


def far_beyond(shape: Shape, random: Random, longest: int, offs: Sequence[int]) -> list[Shape]:
    """Of one head, so cheap: more keys of several queries than elsewhere, more queries, and somewhat more of both."""
    found, one = [], {"batch": 1, "heads_q": 1, "heads_kv": 1, "scale": None}
    many = at_large_edge(random.randint(*MANY_KEYS) * longest // 2, offs[0])
    both = random.randint(longest * 7 // 4, longest * 2)
    if both > LARGE_TILE and random.random() < EDGE_SHARE:
        both = LARGE_TILE + 1
    for queries, keys in ((random.randint(2, FEW), many), (many, random.randint(2, FEW)), (both, both)):
        found.append(changed(shape, {**one, "seqlen_q": queries, "seqlen_kv": keys, "causal": queries <= keys}))
    return found


def at_large_edge(length: int, off: int) -> int:
    """The last end of a large tile before a length, or one off; the length itself where there is none."""
    return length // LARGE_TILE * LARGE_TILE + off if length >= LARGE_TILE else length


def edges_of_tiles(random: Random) -> Edges:
    """All edges of tiles, large ones first, in random order; one that was taken goes to the end."""
    small, large = ([(tile, off) for tile in tiles for off in OFF] for tiles in TILES)
    return [*random.sample(large, k=len(large)), *random.sample(small, k=len(small))]


def lengths_of(level: str, random: Random, longest: int, queries: Edges, keys: Edges) -> tuple[int, int]:
    """Of queries and of keys, which take the edges in turn."""
    few, many = (2, longest // 2), (longest // 2 + 1, longest)
    match level:
        case "equal":
            length = length_of(longest // 4, longest * 2 // 3, random, queries)
            return length, length
        case "more keys":
            return length_of(*few, random, queries), length_of(*many, random, keys)
        case "more queries":
            return length_of(*many, random, queries), length_of(*few, random, keys)
    return 1, length_of(1, longest, random, keys)


def length_of(least: int, most: int, random: Random, edges: Edges) -> int:
    """Any, or more often one at the next of the edges, where there is one."""
    if random.random() < EDGE_SHARE:
        for edge in edges:
            tile, off = edge
            if at_edge := [length for length in range(tile + off, most + 1, tile) if length >= least]:
                edges.remove(edge)
                edges.append(edge)
                return random.choice(at_edge)
    return random.randint(least, most)


def heads_of(level: str, shape: Shape, random: Random) -> tuple[int, int]:
    """Query heads and key/value heads: those of the claimed shape, or a few of a kind."""
    heads = random.choice((2, 3))
    return {
        "claimed": (shape.heads_q, shape.heads_kv),
        "equal": (heads, heads),
        "grouped": random.choice(((4, 2), (6, 2), (6, 2), (6, 3))),
        "one for all": (3 if heads == 2 else MOST_HEADS_BESIDE, 1),
    }[level]


def scale_of(level: str, random: Random) -> float | None:
    """A factor on the scores; None is 1/sqrt(head_dim)."""
    small = math.exp(random.uniform(math.log(1e-4), math.log(0.05)))
    large = round(random.uniform(1.2, 4), 2)
    return {"usual": None, "small": float(f"{small:.3g}"), "one": 1.0, "large": large}[level]


def changed(shape: Shape, changes: dict[str, object]) -> Shape:
    """The shape with other values in some fields."""
    return msgspec.structs.replace(shape, **changes)
