"""Tokens per second of whole models with transformers' own attention and with ours, and the share that attention has.

    python benchmarks/models.py [--device cpu|cuda] [--dtype float32|bfloat16] [--contexts 2048,8192] [--batch N]
        [--models llama,gemma] [--rounds N] [--json FILE]

Models are built from configurations with random weights, nothing is downloaded: one with the layers of Llama (grouped
heads, head_dim 64 on a CPU and 128 on a GPU) and one with those of Gemma 3 (head_dim 256, five layers of six see a
window). Each is run with attn_implementation "eager", "sdpa" and "avo" in turn, round by round: a prompt of so many
tokens, then single tokens behind it. The time of attention alone is what torch's profiler counts inside of it, in a
pass of its own. Logits are compared with those of "eager" in float32 on the same weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
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
COLUMNS = (
    "model",
    "context",
    "batch",
    "phase",
    "arm",
    "tokens_per_s",
    "over_sdpa",
    "attention_share",
    "attention_over_sdpa",
    "logit_error",
)
MARK = "attention of a layer"
EAGER_LIMIT = 2**31  # bytes of scores beyond which eager is left out


def llama(gpu: bool) -> torch.nn.Module:
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4} if gpu else SMALL_LLAMA
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
        num_hidden_layers=6,
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
    print(f"{where}, torch {torch.__version__}, {given.dtype}, medians of {given.rounds} rounds")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--contexts", default="2048,8192")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--models", default="llama,gemma")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    return parser.parse_args()


def mark_attention() -> None:
    """Let the profiler see where the attention of each arm begins and ends."""
    for arm in ("sdpa", "avo"):
        original = ALL_ATTENTION_FUNCTIONS[arm]

        def marked(*positional: Any, _original: Any = original, **named: Any) -> Any:
            with record_function(MARK):
                return _original(*positional, **named)

        AttentionInterface.register(arm, marked)


@torch.inference_mode()
def measure(
    name: str, model: Any, device: torch.device, dtype: torch.dtype, context: int, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """All arms on one model and context: a row for each phase and arm."""
    heads = model.config.num_attention_heads
    arms = [arm for arm in ARMS if arm != "eager" or 4 * given.batch * heads * context**2 <= EAGER_LIMIT]
    tokens = torch.randint(0, 32000, (given.batch, context + STEPS), device=device)
    exact = reference(model, tokens[:1, : min(context, 2048)])
    used = copy.deepcopy(model).to(dtype)
    seconds: dict[tuple[str, str], list[float]] = {}
    error, shares = {}, {}
    for arm in arms:
        used.set_attn_implementation(arm)
        found = used(tokens[:1, : exact.shape[1]]).logits.float()
        error[arm] = float((found - exact).abs().max())
    for round_ in range(given.rounds + 1):
        for arm in arms:
            used.set_attn_implementation(arm)
            times = phases(used, tokens, context, device)
            if round_:  # the first one warms up
                for phase, time_s in times.items():
                    seconds.setdefault((phase, arm), []).append(time_s)
    for arm in arms[-2:]:
        used.set_attn_implementation(arm)
        shares.update({(phase, arm): share for phase, share in profiled(used, tokens, context, device).items()})
    return rows(name, context, given.batch, seconds, shares, error)


def reference(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of "eager" in float32."""
    model.set_attn_implementation("eager")
    exact: torch.Tensor = model(tokens).logits.float()
    return exact


def phases(model: Any, tokens: torch.Tensor, context: int, device: torch.device) -> dict[str, float]:
    """Seconds of the prompt and of the single tokens behind it."""
    cache = DynamicCache(config=model.config)
    begin = now(device)
    model(tokens[:, :context], past_key_values=cache, logits_to_keep=1)
    between = now(device)
    for step in range(context, context + STEPS):
        model(tokens[:, step : step + 1], past_key_values=cache)
    return {"prefill": between - begin, "decode": now(device) - between}


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def profiled(model: Any, tokens: torch.Tensor, context: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Milliseconds of attention and of all, by the profiler; on a GPU those of its kernels."""
    cache = DynamicCache(config=model.config)
    found = {}
    gpu = device.type == "cuda"
    for phase, spans in {
        "prefill": [(0, context)],
        "decode": [(n, n + 1) for n in range(context, context + 4)],
    }.items():
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as record:
            with record_function("all"):
                for first, last in spans:
                    model(tokens[:, first:last], past_key_values=cache, logits_to_keep=1)
            now(device)
        events = {event.key: event for event in record.key_averages()}
        times = [events[key].device_time_total if gpu else events[key].cpu_time_total for key in (MARK, "all")]
        found[phase] = times[0] / 1e3, times[1] / 1e3
    return found


def rows(
    name: str,
    context: int,
    batch: int,
    seconds: dict[tuple[str, str], list[float]],
    shares: dict[tuple[str, str], tuple[float, float]],
    error: dict[str, float],
) -> list[dict[str, Any]]:
    made = []
    for (phase, arm), times in sorted(seconds.items(), reverse=True):
        tokens = batch * (context if phase == "prefill" else STEPS)
        pairs = [theirs / ours for theirs, ours in zip(seconds[phase, "sdpa"], times, strict=True)]
        attention, everything = shares.get((phase, arm), (None, None))
        beside = shares[phase, "sdpa"][0]
        made.append(
            {
                "model": name,
                "context": context,
                "batch": batch,
                "phase": phase,
                "arm": arm,
                "tokens_per_s": tokens / statistics.median(times),
                "over_sdpa": statistics.median(pairs),
                "attention_share": attention / everything if attention and everything else None,
                "attention_over_sdpa": beside / attention if attention else None,
                "logit_error": error[arm],
            }
        )
    return made


if __name__ == "__main__":
    main()
