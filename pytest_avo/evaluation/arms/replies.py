"""What a kernel's process may answer: nothing else is taken for a reply, and nothing in it is believed unchecked."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pytest_avo.evaluation.kernel_process.wire import MAX_FORMS

MAX_REASON = 500
"""Characters of a kernel's own words that a reply may hold; what interferes with the harness gets no more."""


class Loaded(msgspec.Struct, frozen=True, tag_field="said", tag="loaded", forbid_unknown_fields=True):
    """The kernel's file is imported."""


class Enqueued(msgspec.Struct, frozen=True, tag_field="said", tag="enqueued", forbid_unknown_fields=True):
    """All calls of a request have returned; what they put on the device may still be under way."""


class Raised(msgspec.Struct, frozen=True, tag_field="said", tag="error", forbid_unknown_fields=True):
    """The kernel raised; `refused` if it said that it does not do this shape."""

    refused: bool
    what: Annotated[str, msgspec.Meta(max_length=MAX_REASON)]


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the kernel's process says that a call returned, or a part of it where it was to return (out, lse)."""

    plain: bool
    role: Literal["out", "lse", "pair"] = "out"
    """What is described: an output, a log-sum-exp, or something else in the place of both."""
    type: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = "Tensor"
    shape: Annotated[list[int], msgspec.Meta(max_length=64)] = []
    dtype: Annotated[str, msgspec.Meta(max_length=32)] = ""
    device: Annotated[str, msgspec.Meta(max_length=32)] = ""
    aliased: bool = False


class Done(msgspec.Struct, frozen=True, tag_field="said", tag="done", forbid_unknown_fields=True):
    """All calls of a request were made."""

    calls: int
    forms: Annotated[list[Form], msgspec.Meta(min_length=1, max_length=MAX_FORMS)]
    """The different ones among what the calls returned."""
    seconds: float
    """What the process says that all calls took together."""
    replayed: bool = False
    """Whether the calls came from a CUDA graph, without the host's part of their launches."""


_decoder = msgspec.json.Decoder(Loaded | Enqueued | Raised | Done)


def decode(message: bytes) -> Loaded | Enqueued | Raised | Done:
    """A reply; msgspec.DecodeError, ValueError or RecursionError for any other message."""
    reply: Loaded | Enqueued | Raised | Done = _decoder.decode(message)
    return reply
