"""Attention shapes and the suites (shapes/NAME.toml) that list them."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pytest_avo.core.errors import InvalidInput

Dtype = Literal["f32", "bf16", "f16"]
DTYPE_BYTES: dict[Dtype, int] = {"f32": 4, "bf16": 2, "f16": 2}
DTYPE_NAMES: dict[Dtype, str] = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""The names that torch and Triton use."""
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""As large as kernels' own integers are."""
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
InputKind = str
"""Name of a kind of inputs that kernels are timed on: what scores are like in models, where they are not all alike."""
Kinds = Annotated[tuple[InputKind, ...], msgspec.Meta(min_length=1)]
USUAL: tuple[InputKind, ...] = ("normal",)
"""The kinds of inputs of a suite that names none."""


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One attention problem: q (batch, heads_q, seqlen_q, head_dim), k and v (batch, heads_kv, seqlen_kv, head_dim)."""

    batch: Count
    heads_q: Count
    heads_kv: Count
    seqlen_q: Count
    seqlen_kv: Count
    head_dim: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    causal: bool
    dtype: Dtype
    weight: Positive = 1.0
    scale: Positive | None = None
    source: str = ""
    inputs: Kinds = USUAL
    """Kinds of inputs that it is timed on, in turn; a suite's, where the shape names none."""

    def __post_init__(self) -> None:
        if self.heads_q % self.heads_kv:
            raise ValueError(f"heads_q must be a multiple of heads_kv, got {self.heads_q} and {self.heads_kv}")
        _require_distinct(self.inputs)

    @property
    def id(self) -> str:
        """Generated, unique within a suite and stable: `b4-h32kv8-q4096-k4096-d128-causal-bf16`."""
        heads = f"h{self.heads_q}" if self.heads_q == self.heads_kv else f"h{self.heads_q}kv{self.heads_kv}"
        mask = "causal" if self.causal else "full"
        scale = "" if self.scale is None else f"-s{self.scale:g}"
        lengths = f"q{self.seqlen_q}-k{self.seqlen_kv}-d{self.head_dim}"
        return f"b{self.batch}-{heads}-{lengths}-{mask}-{self.dtype}{scale}"

    @property
    def softmax_scale(self) -> float:
        """The factor on q k^T: the shape's own, or 1/sqrt(head_dim)."""
        return self.scale if self.scale is not None else float(self.head_dim) ** -0.5

    @property
    def flops(self) -> float:
        """FLOPs of the two products, 4*b*h*sq*sk*d, halved when causal (FlashAttention's count)."""
        full = 4.0 * self.batch * self.heads_q * self.seqlen_q * self.seqlen_kv * self.head_dim
        return full / 2 if self.causal else full

    @property
    def bytes_moved(self) -> int:
        """Bytes when each input is read once and the output written once."""
        queries = 2 * self.batch * self.heads_q * self.seqlen_q * self.head_dim
        keys = 2 * self.batch * self.heads_kv * self.seqlen_kv * self.head_dim
        return (queries + keys) * DTYPE_BYTES[self.dtype]


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of shapes; `description` is shown in reports, `inputs` holds for shapes that name none."""

    shape: Annotated[list[Shape], msgspec.Meta(min_length=1)]
    description: str = ""
    inputs: Kinds = USUAL

    def __post_init__(self) -> None:
        _require_distinct(self.inputs)


class SuiteFolders(msgspec.Struct, frozen=True):
    """Where suites are looked up, first folder first: the project's shapes/, then those shipped with the plugin."""

    folders: tuple[Path, ...]
    input_kinds: tuple[InputKind, ...] = ()
    """All known kinds; a suite that names another is refused. (): names are not checked."""

    def names(self) -> list[str]:
        return sorted({path.stem for folder in self.folders for path in folder.glob("*.toml")})

    def shapes(self, name: str, *, named_by: str = "") -> tuple[Shape, ...]:
        """The shapes of suite `name`; InvalidInput names the file, table and key that are wrong.

        named_by: the option, or the file and its key, that names the suite: said where there is no such suite.
        """
        for folder in self.folders:
            path = folder / f"{name}.toml"
            try:
                is_there = path.is_file()
            except OSError as error:  # a folder that cannot be looked into, a name that no file can have
                raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None
            if is_there:
                return read_suite(path, self.input_kinds)
        known = ", ".join(self.names()) or "none"
        unknown = f"{named_by}{': ' if named_by else ''}unknown shape suite {name!r}"
        raise InvalidInput(f"{unknown}: expected one of {known} (looked in {self._places()})")

    def _places(self) -> str:
        return ", ".join(str(folder) for folder in self.folders)


@cache
def read_suite(path: Path, input_kinds: tuple[InputKind, ...] = ()) -> tuple[Shape, ...]:
    """Read and validate one suite file; `input_kinds` are those that there are, () where that is not to be checked."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors may begin a file with a byte order mark
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not valid TOML: {error}") from None
    try:
        suite = msgspec.convert(raw, Suite)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{path}: {_in_words(str(error))}") from None
    if input_kinds:
        _require_known(path, suite, input_kinds)
    seen: dict[str, int] = {}
    for number, shape in enumerate(suite.shape, start=1):
        if (first := seen.setdefault(shape.id, number)) != number:
            raise InvalidInput(
                f"{path}: [[shape]] table {number} repeats table {first} ({shape.id}): expected distinct shapes"
            )
    named = ["inputs" in table for table in raw["shape"]]
    return tuple(
        shape if own else msgspec.structs.replace(shape, inputs=suite.inputs)
        for shape, own in zip(suite.shape, named, strict=True)
    )


def _require_distinct(kinds: tuple[InputKind, ...]) -> None:
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"inputs must be distinct kinds, got {', '.join(kinds)}")


def _require_known(path: Path, suite: Suite, known: tuple[InputKind, ...]) -> None:
    tables = {f"[[shape]] table {number}, ": shape.inputs for number, shape in enumerate(suite.shape, start=1)}
    for where, kinds in {"": suite.inputs, **tables}.items():
        if unknown := [kind for kind in kinds if kind not in known]:
            raise InvalidInput(f"{path}: {where}key inputs: expected one of {', '.join(known)}, got {unknown[0]!r}")


def _in_words(message: str) -> str:
    """Msgspec's "Expected `int`, got `str` - at `$.shape[2].batch`" with table and key named as TOML has them."""
    what, _, where = message.replace("`", "").partition(" - at $.")
    where = re.sub(r"(?<=inputs)\[[\d.]+\]$", "", where)
    place = re.fullmatch(r"shape\[(\d+)\](?:\.(\w+))?", where)
    table = f"[[shape]] table {int(place[1]) + 1}" if place else ""
    key = (place[2] or "") if place else where
    known: type[msgspec.Struct] = Shape if place else Suite
    if unknown := re.fullmatch(r"Object contains unknown field (.+)", what):
        key, what = unknown[1], f"unknown, expected one of {', '.join(known.__struct_fields__)}"
    elif missing := re.fullmatch(r"Object missing required field (\w+)", what):
        key, what = missing[1], f"missing, expected in every {'[[shape]] table' if place else 'suite'}"
    elif wrong := re.fullmatch(r"Invalid enum value (.+)", what):
        what = f"expected one of {', '.join(DTYPE_BYTES)}, got {wrong[1]}"
    else:
        array = "a list of kinds" if key == "inputs" else "[[shape]] tables"
        what = what.replace("Expected array", f"expected {array}").replace("object", "table")
        what = what.replace("Expected", "expected")
    where = ", ".join(part for part in (table, f"key {key}" if key else "") if part)
    return f"{where}: {what}" if where else what
