"""Tokens per second of whole models with transformers' own attention and with ours, and the share that attention has.

    python benchmarks/models.py [--device cpu|cuda] [--dtype float32|bfloat16] [--contexts 2048,8192] [--batch N]
        [--models llama,gemma] [--rounds N] [--cpu-time] [--json FILE]

Models are built from configurations with random weights, nothing is downloaded: on a GPU one of the sizes of Llama 3.1
8B and one of those of Gemma 3 4B (head_dim 256, five layers of six see a window), on a CPU a few layers of such models.
Each is run with attn_implementation "eager", "sdpa" and "avo" in turn, round by round: a prompt of so many tokens, then
single tokens behind it. The time of attention alone is taken around each layer's call on a CPU, and is that of the
kernels inside of it on a GPU, by torch's profiler in a pass of its own. Logits are compared with those of "eager" in
float32 on the same weights.

Every round has lengths of its own, a few tokens more than the one before. On a GPU it is run twice: what prepares
itself for each length (cuDNN does, which torch prefers on Hopper) pays for that where lengths are "new", as in a first
conversation, and no more where they were "seen". `attention_host_us` is what the host spends on a layer's attention.

`--cpu-time` counts seconds of CPU instead of those of the wall, on one thread: for a machine that others use too.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import (
    AttentionInterface,
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pytest_avo.integrations.transformers import register

ARMS = ("eager", "sdpa", "avo")
STEPS = 8  # single tokens behind a prompt, in one timed slice
PROFILED_STEPS = 2  # of them: reading the profiler's records takes longer than running what they are of
COLUMNS = (
    "model",
    "context",
    "batch",
    "phase",
    "lengths",
    "arm",
    "tokens_per_s",
    "over_sdpa",
    "attention_share",
    "attention_over_sdpa",
    "attention_host_us",
    "logit_error",
)
MARK = "attention of a layer"
EAGER_LIMIT = 2**31  # bytes of scores beyond which eager is left out


@dataclass
class Clock:
    """What counts as a second, and what attention took until now, in so many calls."""

    seconds: Callable[[], float] = time.perf_counter
    attention_s: float = 0.0
    calls: int = 0


class Phase(NamedTuple):
    """What a prompt or the tokens behind it took: as a whole, in attention, and the host for one call of that."""

    whole_s: float
    attention_s: float
    call_s: float


CLOCK = Clock()


def llama(gpu: bool) -> torch.nn.Module:
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32} if gpu else SMALL_LLAMA
    heads = {"num_attention_heads": 32 if gpu else 16, "num_key_value_heads": 8 if gpu else 4}
    heads["head_dim"] = 128 if gpu else 64
    return LlamaForCausalLM(LlamaConfig(vocab_size=32000, max_position_embeddings=131072, **sizes, **heads))


def gemma(gpu: bool) -> torch.nn.Module:
    sizes = (
        {"hidden_size": 2560, "intermediate_size": 10240} if gpu else {"hidden_size": 1152, "intermediate_size": 6912}
    )
    heads = (
        {"num_attention_heads": 8, "num_key_value_heads": 4}
        if gpu
        else {"num_attention_heads": 4, "num_key_value_heads": 1}
    )
    config = Gemma3TextConfig(
        vocab_size=32000,
        head_dim=256,
        num_hidden_layers=34 if gpu else 6,
        sliding_window=1024 if gpu else 512,
        query_pre_attn_scalar=256,
        max_position_embeddings=131072,
        **sizes,
        **heads,
    )
    return Gemma3ForCausalLM(config)


SMALL_LLAMA = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2}
MODELS = {"llama": llama, "gemma": gemma}


def main() -> None:
    given = arguments()
    if given.cpu_time:
        CLOCK.seconds = time.process_time
        torch.set_num_threads(1)
    register()
    mark_attention()
    device = torch.device(given.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    found: list[dict[str, Any]] = []
    for name in given.models.split(","):
        torch.manual_seed(0)
        with device:
            model = MODELS[name](device.type == "cuda").eval()
        for context in map(int, given.contexts.split(",")):
            rows_here = measure(name, model, device, getattr(torch, given.dtype), context, given)
            found += rows_here
            shown = [[row[column] for column in COLUMNS] for row in rows_here]
            print(tabulate(shown, COLUMNS, floatfmt=".3g", tablefmt="github"), flush=True)
            if given.json:
                document = {"where": where, "torch": torch.__version__, "dtype": given.dtype, "rows": found}
                Path(given.json).write_text(json.dumps(document, indent=1))
    print(
        f"{where}, torch {torch.__version__}, {given.dtype}, medians of {given.rounds} rounds"
        f"{' of CPU time' if given.cpu_time else ''}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--contexts", default="2048,8192")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--models", default="llama,gemma")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json")
    return parser.parse_args()


def mark_attention() -> None:
    """Take the time of attention, and let the profiler see where that begins and ends."""
    for arm in ("sdpa", "avo"):
        original = ALL_ATTENTION_FUNCTIONS[arm]

        def marked(*positional: Any, _original: Any = original, **named: Any) -> Any:
            begin = CLOCK.seconds()
            with record_function(MARK):
                out = _original(*positional, **named)
            CLOCK.attention_s += CLOCK.seconds() - begin
            CLOCK.calls += 1
            return out

        AttentionInterface.register(arm, marked)


@torch.no_grad()
def measure(
    name: str, model: Any, device: torch.device, dtype: torch.dtype, context: int, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """All arms on one model and context: a row for each phase and arm."""
    heads = model.config.num_attention_heads
    arms = [arm for arm in ARMS if arm != "eager" or 4 * given.batch * heads * context**2 <= EAGER_LIMIT]
    tokens = torch.randint(0, 32000, (given.batch, context + (given.rounds + 2) * STEPS), device=device)
    used = copy.deepcopy(model)
    for parameter, original in zip(used.parameters(), model.parameters(), strict=True):
        parameter.data = original.data.to(dtype)  # buffers, as the frequencies of positions, stay in float32
        original.data = parameter.data.float()
    exact = reference(model, tokens[:1, : min(context, 2048)])
    error = {}
    for arm in arms:
        used.set_attn_implementation(arm)
        found = used(tokens[:1, : exact.shape[1]]).logits.float()
        error[arm] = float((found - exact).abs().max())
    taken: dict[tuple[str, str, str], list[Phase]] = {}
    for round_ in range(given.rounds + 1):
        for lengths in ("new", "seen") if device.type == "cuda" else ("new",):
            for arm in arms:
                used.set_attn_implementation(arm)
                both = phases(used, tokens, context + round_ * STEPS, device)
                if round_:  # the first one warms up
                    for phase, found_here in both.items():
                        taken.setdefault((phase, lengths, arm), []).append(found_here)
    if device.type == "cuda":
        for arm in arms[-2:]:
            used.set_attn_implementation(arm)
            for phase, attention_s in profiled(used, tokens, context).items():
                for lengths in ("new", "seen"):
                    rounds = taken[phase, lengths, arm]
                    rounds[:] = [each._replace(attention_s=attention_s) for each in rounds]
    return rows(name, context, given.batch, taken, error)


def reference(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of "eager" in float32."""
    model.set_attn_implementation("eager")
    exact: torch.Tensor = model(tokens).logits.float()
    return exact


def phases(model: Any, tokens: torch.Tensor, context: int, device: torch.device) -> dict[str, Phase]:
    """What the prompt and the single tokens behind it take."""
    cache = DynamicCache(config=model.config)
    marks = [now(device)]
    model(tokens[:, :context], past_key_values=cache, logits_to_keep=1)
    marks.append(now(device))
    for step in range(context, context + STEPS):
        model(tokens[:, step : step + 1], past_key_values=cache)
    marks.append(now(device))
    return {"prefill": between(*marks[:2]), "decode": between(*marks[1:])}


def now(device: torch.device) -> Clock:
    """The time, and what attention took until then."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    moment = CLOCK.seconds()
    return Clock(lambda: moment, CLOCK.attention_s, CLOCK.calls)


def between(first: Clock, last: Clock) -> Phase:
    attention_s = last.attention_s - first.attention_s
    return Phase(last.seconds() - first.seconds(), attention_s, attention_s / max(1, last.calls - first.calls))


def profiled(model: Any, tokens: torch.Tensor, context: int) -> dict[str, float]:
    """Seconds that a GPU spends on attention in each phase, by the profiler; of decoding for all STEPS."""
    cache = DynamicCache(config=model.config)
    found = {}
    phases_of = {"prefill": [(0, context)], "decode": [(n, n + 1) for n in range(context, context + PROFILED_STEPS)]}
    for phase, spans in phases_of.items():
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
            for first, last in spans:
                model(tokens[:, first:last], past_key_values=cache, logits_to_keep=1)
            torch.cuda.synchronize()
        found[phase] = marked_s(record) * (STEPS / PROFILED_STEPS if phase == "decode" else 1)
    return found


def marked_s(record: profile) -> float:
    """Seconds in which a GPU ran kernels for what is marked as attention.

    Where two of them ran at once (a dependent launch comes up while what it waits for still runs) they count once.
    """
    on_gpu = [event for event in record.events() or [] if event.device_type == DeviceType.CUDA]
    marks = sorted((event.time_range.start, event.time_range.end) for event in on_gpu if event.name == MARK)
    found_us = 0.0
    counted_until = -inf
    ran = sorted((event.time_range.start, event.time_range.end) for event in on_gpu if not event.is_user_annotation)
    for start, end in ran:
        place = bisect_right(marks, (start, inf))
        if place and start < marks[place - 1][1]:
            found_us += max(0.0, end - max(start, counted_until))
            counted_until = max(counted_until, end)
    return found_us * 1e-6


def rows(
    name: str, context: int, batch: int, taken: dict[tuple[str, str, str], list[Phase]], error: dict[str, float]
) -> list[dict[str, Any]]:
    """Medians over rounds; ratios are medians of the rounds' own."""
    made = []
    for (phase, lengths, arm), rounds in sorted(taken.items(), reverse=True):
        tokens = batch * (context if phase == "prefill" else STEPS)
        pairs = list(zip(taken[phase, lengths, "sdpa"], rounds, strict=True))
        told = arm != "eager"
        made.append(
            {
                "model": name,
                "context": context,
                "batch": batch,
                "phase": phase,
                "lengths": lengths,
                "arm": arm,
                "tokens_per_s": tokens / median(each.whole_s for each in rounds),
                "over_sdpa": median(a.whole_s / b.whole_s for a, b in pairs),
                "attention_share": median(each.attention_s / each.whole_s for each in rounds) if told else None,
                "attention_over_sdpa": median(a.attention_s / b.attention_s for a, b in pairs) if told else None,
                "attention_host_us": median(each.call_s for each in rounds) * 1e6 if told else None,
                "logit_error": error[arm],
                "seconds": [each.whole_s for each in rounds],
            }
        )
    return made


if __name__ == "__main__":
    main()
