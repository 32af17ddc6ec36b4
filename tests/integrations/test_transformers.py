"""`attn_implementation="avo"` on small models with random weights: what "eager" says, by the kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_avo.kernels import use
from tests.kernels.measured_folder import builds, calls, counted, results, used

# Older names work for as long as these tests are to run with older versions too.
# It takes seconds to import: the tests of one process need it, all that run tests read this file.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated"),
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs pytest-avo[transformers]"),
]

VOCABULARY = 64
STEPS = 72
"""As many as lead beyond the second length that was measured."""
DECODING = [f"b1-h4kv2-q1-k{n}-d64-full-f32" for n in (8, 64, 512)]
PROMPTS = [f"b1-h4kv2-q{n}-k{m}-d64-causal-f32" for n, m in ((2, 8), (8, 8), (32, 32))]


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kernels for CPUs, measured on small shapes, and "avo" known to transformers."""
    from pytest_avo.integrations.transformers import register

    folder = tmp_path_factory.mktemp("project")
    sources = {name: counted(name) for name in ("decode", "prefill")}
    with pytest.MonkeyPatch.context() as patch, used(folder, **sources) as own:
        patch.setattr(tempfile, "tempdir", str(builds(tmp_path_factory)))
        rows = {"kernels/decode.py": DECODING, "kernels/prefill.py": PROMPTS}
        (folder / "results.json").write_text(results(rows, ratio=50.0))
        use(own, results=[folder / "results.json"])
        assert register() == register() == "avo"
        yield own


def llama(**given: Any) -> Any:
    transformers = import_module("transformers")

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=VOCABULARY, **{**sizes, **heads, **given})
    return transformers.LlamaForCausalLM(config).eval()


def gemma() -> Any:
    """Layers of both kinds; the window bites from the ninth token on."""
    transformers = import_module("transformers")

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 64}
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=64,
        **sizes,
    )
    return transformers.Gemma3ForCausalLM(config).eval()


def prompts(*padding: int, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask of sequences with so many tokens of padding on the left."""
    tokens = torch.randint(1, VOCABULARY, (len(padding), length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
    return tokens, mask


def both(model: Any, run: Any) -> tuple[Any, Any]:
    """What the model does with "eager" and with "avo"."""
    found = []
    for arm in ("eager", "avo"):
        model.set_attn_implementation(arm)
        with torch.no_grad():
            found.append(run(model))
    return found[0], found[1]


def test_generation_says_the_same_over_many_steps(kernels: Path) -> None:
    tokens, mask = prompts(0, 5, 9)
    before = [len(calls(kernels, name)) for name in ("decode", "prefill")]
    eager, ours = both(
        llama(),
        lambda model: model.generate(
            tokens, attention_mask=mask, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, pad_token_id=0
        ),
    )
    assert ours.shape == (3, 12 + STEPS)
    assert ours.equal(eager)
    decoded, prompted = (len(calls(kernels, name)) - n for name, n in zip(("decode", "prefill"), before, strict=True))
    assert decoded == 2 * (STEPS - 1)  # layers, tokens but the first; sequences with paddings of their own in one call
    assert prompted == 2 * 3


@pytest.mark.parametrize("padding", [(0,), (0, 0, 0), (4, 4), (0, 3), (11, 2, 0)])
@pytest.mark.parametrize("make", [llama, gemma])
def test_logits_are_those_of_eager(make: Any, padding: tuple[int, ...]) -> None:
    tokens, mask = prompts(*padding)
    eager, ours = both(make(), lambda model: model(tokens, attention_mask=mask).logits)
    torch.testing.assert_close(ours[mask.bool()], eager[mask.bool()], atol=2e-5, rtol=2e-5)


def test_a_window_that_bites_is_cut_into_blocks(kernels: Path) -> None:
    tokens, mask = prompts(0, 3, length=20)
    before = len(calls(kernels, "prefill"))
    eager, ours = both(gemma(), lambda model: model(tokens, attention_mask=mask).logits)
    torch.testing.assert_close(ours[mask.bool()], eager[mask.bool()], atol=2e-5, rtol=2e-5)
    keys = [key[2] for _, key, given in calls(kernels, "prefill")[before:] if given.get("return_lse")]
    assert keys == [8, 7, 8, 7]  # the keys of a block and those before it, of two sequences


@pytest.mark.parametrize("make", [llama, gemma])
def test_a_prompt_in_pieces_and_a_cache_of_fixed_length(make: Any) -> None:
    transformers = import_module("transformers")

    tokens, mask = prompts(0, 3)

    def in_pieces(model: Any) -> torch.Tensor:
        cache = transformers.DynamicCache(config=model.config)
        model(tokens[:, :5], attention_mask=mask[:, :5], past_key_values=cache)
        logits: torch.Tensor = model(tokens[:, 5:], attention_mask=mask, past_key_values=cache).logits
        return logits

    def fixed(model: Any) -> torch.Tensor:
        cache = transformers.StaticCache(config=model.config, max_cache_len=32)
        first = model(tokens[:1, :8], past_key_values=cache).logits
        second = model(tokens[:1, 8:9], past_key_values=cache).logits
        return torch.cat([first, second], dim=1)

    model = make()
    for run in (in_pieces, fixed):
        eager, ours = both(model, run)
        torch.testing.assert_close(ours, eager, atol=2e-5, rtol=2e-5)


def test_half_precision_errs_no_more_than_sdpa() -> None:
    tokens, mask = prompts(0, 3, length=40)
    exact = llama()
    exact.set_attn_implementation("eager")
    half = llama().bfloat16()
    with torch.no_grad():
        expected = exact(tokens, attention_mask=mask).logits[mask.bool()]
        errors = {}
        for arm in ("sdpa", "avo"):
            half.set_attn_implementation(arm)
            found = half(tokens, attention_mask=mask).logits[mask.bool()]
            errors[arm] = float((found - expected).abs().max())
    assert errors["avo"] <= 1.5 * errors["sdpa"]


def test_other_masks_and_gradients_go_the_way_of_sdpa() -> None:
    tokens, _ = prompts(0, 0)
    block = torch.zeros(2, 1, 12, 12, dtype=torch.bool)
    for start in (0, 4, 8):
        block[:, :, start : start + 4, start : start + 4] = True  # three documents in one sequence
    model = llama()
    found = {}
    for arm in ("sdpa", "avo"):
        model.set_attn_implementation(arm)
        model.zero_grad()
        logits = model(tokens, attention_mask=block).logits
        logits.square().sum().backward()
        plain = model(tokens).logits
        plain.square().sum().backward()
        found[arm] = logits, plain, model.model.layers[0].self_attn.k_proj.weight.grad.clone()
    for ours, theirs in zip(found["avo"], found["sdpa"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_positions_of_packed_sequences_are_not_taken_for_causal() -> None:
    tokens, _ = prompts(0)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1]])
    eager, ours = both(llama(), lambda model: model(tokens, position_ids=positions, use_cache=False).logits)
    torch.testing.assert_close(ours, eager, atol=2e-5, rtol=2e-5)


def test_a_whole_model_is_one_graph() -> None:
    tokens, _ = prompts(0, 0)
    model = llama(num_hidden_layers=1)
    model.set_attn_implementation("avo")
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(tokens, use_cache=False).logits, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("asked", ["softcap", "s_aux", "cu_seq_lens_q", "block_table"])
def test_what_would_be_left_out_is_refused(asked: str) -> None:
    from pytest_avo.integrations.transformers import attend

    q = torch.randn(1, 4, 3, 64)
    with pytest.raises(NotImplementedError, match=asked if asked in ("softcap", "s_aux") else "packed or paged"):
        attend(torch.nn.Module(), q, q, q, None, **{asked: 30.0})  # type: ignore[arg-type]
