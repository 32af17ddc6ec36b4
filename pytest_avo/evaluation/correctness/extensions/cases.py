"""All calls that a kernel must get right for one shape: the battery of plain ones, and those of optional functions.

As in the battery of plain calls: at what a claimed shape says nothing may be refused, with sequences of up to its
lengths; beside it all that a call consists of is varied, and every two choices meet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import msgspec

from pytest_avo.core.kernel import Claim
from pytest_avo.core.shape import Shape
from pytest_avo.core.signature import ATTENTION, PAGED, VARLEN
from pytest_avo.evaluation.correctness.battery import KINDS, LAYOUTS, Extent, ask_some, asked_instead, battery
from pytest_avo.evaluation.correctness.inputs import Case
from pytest_avo.evaluation.correctness.kinds import Kind
from pytest_avo.evaluation.correctness.layouts import Layout
from pytest_avo.evaluation.correctness.sizes.beside import LONGEST_BESIDE, heads_of, scale_of
from pytest_avo.evaluation.correctness.sizes.covering import Levels, covering

MOST_SEQUENCES = 3
LARGEST_BLOCK = 256
"""Tokens of a block that is checked, unless a claim is for larger ones alone."""
SPARE_BLOCKS = 3
SPARE_TOKENS = 40
Lengths = tuple[int, int]

_COMMON: dict[str, tuple[str, ...]] = {
    "mask": ("causal", "full"),
    "heads": ("claimed", "equal", "grouped", "one for all"),
    "scale": ("usual", "small", "one", "large"),
    "q": ("models'", "other order", "gaps"),
    "k": ("models'", "other order", "gaps"),
    "v": ("models'", "other order", "gaps"),
    "behind": ("nothing", "anything"),
}
PACKED_FACTORS = {**_COMMON, "lengths": ("equal", "exchanged", "more keys", "more queries", "one query", "some empty")}
PAGED_FACTORS = {
    **_COMMON,
    "lengths": ("equal", "different", "some empty"),
    "queries": ("one", "several", "more than keys"),
    "block": ("small", "usual", "large"),
    "shared": ("no", "yes"),
}
TOGETHER = {"heads": ("mask",), "scale": ("mask",), "q": ("mask",), "k": ("mask", "v"), "v": ("mask", "k")}
"""Pairs that need to meet, few: a kernel may need builds of its own for each row."""
_GAPS_IN_BLOCKS: tuple[Layout, ...] = ("padded",)


@dataclass(frozen=True, slots=True)
class SequencesCase:
    """One call of an optional function to check; where it is not `required` it may be refused."""

    name: str
    function: str
    shape: Shape
    """Heads, head_dim, dtype, mask and scale; its batch and lengths are the number of sequences and their greatest."""
    lengths: tuple[Lengths, ...]
    """Queries and keys of each sequence; either may be 0."""
    kinds: tuple[Kind, ...]
    layouts: tuple[Layout, Layout, Layout] = ("bshd", "bshd", "bshd")
    required: bool = True
    lse: bool = False
    is_padded: bool = False
    """Whether there is more behind: tokens of no sequence, entries of the table that are no blocks."""
    block_size: int = 0
    is_shared: bool = False
    """Whether sequences have their first block in common, where it is full."""

    @property
    def way(self) -> str:
        """How the kernel is called, for which it may have code of its own."""
        return f"{self.function} {'with lse' if self.lse else ''}"

    @property
    def times(self) -> int:
        return 1


def all_cases(
    shape: Shape,
    claim: Claim | None,
    random: Random,
    *,
    longest: int = LONGEST_BESIDE,
    place: str = "cpu",
    beside: Extent = "all",
) -> list[Case | SequencesCase]:
    """All that a kernel is asked about a shape by what it claims; first the plain call that it is timed on.

    longest: of the lengths beside the claimed ones, of each of several sequences a third; place: kind of torch device;
    beside: which calls beside the claimed shape.
    """
    lse = claim is not None and claim.lse
    plain = battery(shape, random, longest=longest, place=place, lse=lse, beside=beside)
    several = _extensions(shape, claim, random, longest // 3, place)
    return [*plain, *(case for case in several if case.required or beside != "nothing")]


def all_asked_instead(
    shape: Shape, claim: Claim | None, random: Random, refused: Collection[str], *, place: str = "cpu"
) -> list[Case | SequencesCase]:
    """What is asked at the claimed shape of a kernel that refused calls of some functions, by name, beside it."""
    lse = claim is not None and claim.lse
    found: list[Case | SequencesCase] = []
    if ATTENTION.name in refused:
        found += asked_instead(shape, random, place=place, lse=lse)
    if VARLEN.name in refused:
        found += [_packed_at_claim(shape, random, lse=lse, empty=empty) for empty in (False, True)]
    if PAGED.name in refused and claim is not None:
        for level in ("small", "large"):
            case = _claimed_paged(shape, random, int(claim.paged), lse=lse)
            size = block_size(level, int(claim.paged), random)
            found.append(replace(case, block_size=size, is_shared=level == "small", required=False))
    return found


def _packed_at_claim(shape: Shape, random: Random, *, lse: bool, empty: bool) -> SequencesCase:
    """As many sequences as the claimed shape has, one of them whole, of the others keys and queries unlike.

    empty: one of them without keys, or without queries.
    """
    whole = (shape.seqlen_q, shape.seqlen_kv)
    others = [(random.randint(0, whole[0]), random.randint(0, whole[1])) for _ in range(max(1, shape.batch - 1))]
    if empty:
        others[0] = random.choice(((0, others[0][1]), (others[0][0], 0)))
    lengths = [whole, *others]
    random.shuffle(lengths)
    case = _case("varlen, as others are refused", VARLEN.name, shape, lengths, random, lse=lse)
    return replace(case, required=False, is_padded=empty)


def _extensions(shape: Shape, claim: Claim | None, random: Random, longest: int, place: str) -> list[SequencesCase]:
    """The calls to check of the functions that a kernel claims beside attention(), required ones first."""
    if claim is None:
        return []
    found: list[SequencesCase] = []
    if claim.varlen:
        found.append(_claimed_packed(shape, random, lse=claim.lse))
        rows = _rows(PACKED_FACTORS, claim, random)
        found += [_packed(shape, row, random, longest, place) for row in rows]
    if claim.paged:
        multiple = int(claim.paged)
        found.append(_claimed_paged(shape, random, multiple, lse=claim.lse))
        rows = _rows(PAGED_FACTORS, claim, random)
        found += [_paged(shape, row, random, longest, place, multiple) for row in rows]
    return sorted(found, key=lambda case: not case.required)


def _rows(factors: Mapping[str, Sequence[str]], claim: Claim, random: Random) -> list[Levels]:
    rows = covering(factors, random, together=TOGETHER)
    if claim.lse:
        ask_some(rows, random)
    return rows


def block_size(level: str, multiple: int, random: Random) -> int:
    """A size of blocks that is a multiple of what a claim names: of few tokens, as servers have it, or large."""
    most = max(1, LARGEST_BLOCK // multiple)
    match level:
        case "small":
            times = random.randint(1, min(most, 7))
        case "usual":
            times = random.choice([n for n in (16 // multiple, 32 // multiple, 64 // multiple, 1) if n])
        case _:
            times = random.choice((most, max(1, most // 2)))
    return multiple * times


def _claimed_packed(shape: Shape, random: Random, *, lse: bool) -> SequencesCase:
    """Sequences of together no more tokens than the claimed shape has, one of them whole if it is not alone."""
    if shape.batch == 1:
        share = random.uniform(0.5, 0.95)
        first = (max(1, int(share * shape.seqlen_q)), max(1, int(share * shape.seqlen_kv)))
        lengths = [first, (shape.seqlen_q - first[0], shape.seqlen_kv - first[1])]
    else:
        lengths = [(shape.seqlen_q, shape.seqlen_kv)]
        for share in (random.random() for _ in range(shape.batch - 1)):
            lengths.append((round(share * shape.seqlen_q), round(share * shape.seqlen_kv)))
    random.shuffle(lengths)
    return _case("varlen, claimed lengths", VARLEN.name, shape, lengths, random, lse=lse)


def _claimed_paged(shape: Shape, random: Random, multiple: int, *, lse: bool) -> SequencesCase:
    lengths = [(shape.seqlen_q, shape.seqlen_kv)]
    lengths += [(shape.seqlen_q, random.randint(0, shape.seqlen_kv)) for _ in range(shape.batch - 1)]
    random.shuffle(lengths)
    case = _case("paged, claimed lengths", PAGED.name, shape, lengths, random, lse=lse)
    return replace(case, block_size=block_size("usual", multiple, random), is_padded=True)


def _packed(shape: Shape, row: Levels, random: Random, longest: int, place: str) -> SequencesCase:
    lengths = [_lengths(row["lengths"], random, longest) for _ in range(random.randint(2, MOST_SEQUENCES))]
    if row["lengths"] == "equal":
        lengths = lengths[:1] * len(lengths)
    if row["lengths"] == "exchanged":  # as many keys as queries in all, and not in each
        lengths = list(zip([x for x, _ in lengths], [x for x, _ in [*lengths[1:], lengths[0]]], strict=True))
    if row["lengths"] == "some empty":
        (queries, keys), *others = lengths
        lengths = [(queries, 0), (0, random.choice((0, keys))), *others]
        random.shuffle(lengths)
    changed = _changed(shape, row, random)
    case = _case(f"varlen, {row['lengths']}", VARLEN.name, changed, lengths, random, lse=row.get("lse") == "asked")
    return _beside(case, row, random, place)


def _paged(shape: Shape, row: Levels, random: Random, longest: int, place: str, multiple: int) -> SequencesCase:
    count, keys = random.randint(2, MOST_SEQUENCES), longest if row["queries"] != "more than keys" else longest // 3
    queries = {"one": 1, "several": random.randint(2, 9), "more than keys": longest // 2}[row["queries"]]
    held, size = [random.randint(1, keys) for _ in range(count)], block_size(row["block"], multiple, random)
    if row["lengths"] == "equal":
        held = held[:1] * count
    if row["lengths"] == "some empty":
        held[random.randrange(count)] = 0
    if row["block"] == "large" and row["queries"] == "one" and size <= longest * MOST_SEQUENCES:
        held = [size + each if each == max(held) else each for each in held]  # elsewhere none has a second one
    changed = _changed(shape, row, random)
    name = f"paged, {row['queries']} queries" if row["queries"] != "one" else "paged, one query"
    lengths = [(queries, each) for each in held]
    case = _case(name, PAGED.name, changed, lengths, random, lse=row.get("lse") == "asked")
    case = replace(case, block_size=size, is_shared=row["shared"] == "yes")
    return _beside(case, row, random, place)


def _lengths(level: str, random: Random, longest: int) -> Lengths:
    few, many = random.randint(1, longest // 2), random.randint(longest // 2 + 1, longest)
    match level:
        case "equal":
            return many, many
        case "more queries":
            return many, few
        case "one query":
            return 1, random.randint(1, longest)
        case "exchanged":
            return random.choice((few, many)), 0
    return few, many


def _changed(shape: Shape, row: Levels, random: Random) -> Shape:
    heads_q, heads_kv = heads_of(row["heads"], shape, random)
    scale = scale_of(row["scale"], random)
    changes = {"heads_q": heads_q, "heads_kv": heads_kv, "scale": scale, "causal": row["mask"] == "causal"}
    return msgspec.structs.replace(shape, **changes)


def _case(
    name: str, function: str, shape: Shape, lengths: list[Lengths], random: Random, *, lse: bool
) -> SequencesCase:
    greatest = {
        "batch": len(lengths),
        "seqlen_q": max(1, *(queries for queries, _ in lengths)),
        "seqlen_kv": max(1, *(keys for _, keys in lengths)),
    }
    kinds = tuple(random.choice(KINDS) for _ in lengths)
    shape = msgspec.structs.replace(shape, **greatest)
    return SequencesCase(name, function, shape, tuple(lengths), kinds, lse=lse)


def _beside(case: SequencesCase, row: Levels, random: Random, place: str) -> SequencesCase:
    layouts = {name: LAYOUTS[row[name]] for name in "qkv"}
    for name in layouts:
        if row[name] == "gaps":
            # Slots behind each of many small blocks would take more memory than all blocks.
            gaps = layouts[name] if case.function == VARLEN.name or name == "q" else _GAPS_IN_BLOCKS
            layouts[name] = (*gaps, "odd") if place == "cpu" else gaps
    q, k, v = (random.choice(layouts[name]) for name in "qkv")
    return replace(case, layouts=(q, k, v), required=False, is_padded=row["behind"] == "anything")
