"""What kernels are compared with: each peer is a kernel like any other and runs in a process of its own.

A peer that cannot be imported or refuses a shape becomes a note beside the table. On a GPU every peer gets tensors as
(batch, heads, seqlen, head_dim) views of memory ordered (batch, seqlen, heads, head_dim), which all of them take
without a copy.
"""

from __future__ import annotations

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Subject
from pytest_avo.core.fingerprint import installed_version

TORCH_SDPA = '''"""torch's own scaled_dot_product_attention, with a bottom-right causal mask."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def attention(q, k, v, *, causal, scale):
    seqlen_q, seqlen_kv = q.shape[-2], k.shape[-2]
    grouped = q.shape[1] != k.shape[1]
    if not causal or seqlen_q == 1:
        return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    if seqlen_q == seqlen_kv:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    # is_causal is aligned top-left in torch, so unequal lengths need the mask written out.
    visible = torch.ones(seqlen_q, seqlen_kv, dtype=torch.bool, device=q.device).tril(seqlen_kv - seqlen_q)
    out = scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale, enable_gqa=grouped)
    if seqlen_q > seqlen_kv:
        out[:, :, : seqlen_q - seqlen_kv] = 0  # rows that see no key: NaN on a CPU, anything on a GPU
    return out
'''

_PINNED = '''"""torch's scaled_dot_product_attention, pinned to one back end."""

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def attention(q, k, v, *, causal, scale):
    if causal and q.shape[-2] not in (1, k.shape[-2]):
        raise NotImplementedError("is_causal is aligned top-left, so unequal lengths would be another problem")
    causal = causal and q.shape[-2] > 1
    with sdpa_kernel(SDPBackend.BACKEND):
        return scaled_dot_product_attention(
            q, k, v, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
'''

_FA3 = '''"""FlashAttention-3, from whichever package brings it."""

try:
    from fa3_fwd_interface import flash_attn_func
except ImportError:
    from flash_attn_interface import flash_attn_func


def attention(q, k, v, *, causal, scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    # One split is its default, which leaves most of the GPU idle in decoding; 0 lets it choose.
    splits = {"num_splits": 0} if q.shape[1] == 1 else {}
    out = flash_attn_func(q, k, v, softmax_scale=scale, causal=causal, **splits)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
'''

_FA4 = '''"""FlashAttention-4, written in CuTe's DSL."""

from flash_attn.cute import flash_attn_func


def attention(q, k, v, *, causal, scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = flash_attn_func(q, k, v, softmax_scale=scale, causal=causal)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
'''

_FLASHINFER = '''"""FlashInfer as servers call it: decoding over paged caches, all else over ragged sequences."""

from functools import cache

import flashinfer
import torch

WORKSPACE_BYTES = 256 << 20
PAGES = (16, 8, 4, 2, 1)
GROUP_FOR_TENSOR_CORES = 4


@cache
def workspace(device):
    return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)


def starts(batch, length, device):
    return torch.arange(batch + 1, dtype=torch.int32, device=device) * length


@cache
def decoder(batch, heads_q, heads_kv, keys, head_dim, dtype, scale, device):
    page = next(size for size in PAGES if keys % size == 0)
    pages = keys // page
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace(device), "NHD", use_tensor_cores=heads_q // heads_kv >= GROUP_FOR_TENSOR_CORES
    )
    wrapper.plan(
        starts(batch, pages, device),
        torch.arange(batch * pages, dtype=torch.int32, device=device),
        torch.full((batch,), page, dtype=torch.int32, device=device),
        heads_q,
        heads_kv,
        head_dim,
        page,
        q_data_type=dtype,
        kv_data_type=dtype,
        sm_scale=scale,
    )
    return wrapper, page


@cache
def prefiller(batch, heads_q, heads_kv, queries, keys, head_dim, dtype, causal, scale, device):
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace(device), "NHD")
    wrapper.plan(
        starts(batch, queries, device),
        starts(batch, keys, device),
        heads_q,
        heads_kv,
        head_dim,
        causal=causal,
        sm_scale=scale,
        q_data_type=dtype,
        kv_data_type=dtype,
    )
    return wrapper


def attention(q, k, v, *, causal, scale):
    batch, heads_q, queries, head_dim = q.shape
    heads_kv, keys = k.shape[1], k.shape[2]
    if causal and queries > keys:
        raise NotImplementedError("rows that see no key are not promised to be zero there")
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    if queries == 1:
        wrapper, page = decoder(batch, heads_q, heads_kv, keys, head_dim, q.dtype, scale, q.device)
        paged = tuple(x.view(-1, page, heads_kv, head_dim) for x in (k, v))
        return wrapper.run(q[:, 0], paged)[:, :, None]
    wrapper = prefiller(batch, heads_q, heads_kv, queries, keys, head_dim, q.dtype, causal, scale, q.device)
    out = wrapper.run(*(x.flatten(0, 1) for x in (q, k, v)))
    return out.view(batch, queries, heads_q, head_dim).transpose(1, 2)
'''

_FLEX = '''"""FlexAttention, compiled once per shape."""

from functools import cache

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

compiled = torch.compile(flex_attention, dynamic=False)


@cache
def mask(seqlen_q, seqlen_kv, device):
    offset = seqlen_kv - seqlen_q
    return create_block_mask(
        lambda b, h, row, column: column <= row + offset, None, None, seqlen_q, seqlen_kv, device=device
    )


def attention(q, k, v, *, causal, scale):
    block_mask = mask(q.shape[-2], k.shape[-2], q.device.type) if causal else None
    return compiled(q, k, v, block_mask=block_mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
'''

_ONNXRUNTIME = '''"""ONNX's Attention operator (opset 23) as onnxruntime runs it on the CPU, a session per problem."""

import os
from functools import cache

import onnxruntime
import torch
from onnx import TensorProto, helper

NAMES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}


@cache
def session(q, kv, dtype, causal, scale):
    if dtype not in NAMES:
        raise NotImplementedError(f"dtype {dtype}: onnxruntime's CPU operator has float32 and float16")
    written_out = causal and q[2] != kv[2]  # is_causal is aligned top-left
    sizes = {"q": q, "k": kv, "v": kv}
    inputs = [helper.make_tensor_value_info(name, NAMES[dtype], size) for name, size in sizes.items()]
    if written_out:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, [q[2], kv[2]]))
    node = helper.make_node(
        "Attention", [each.name for each in inputs], ["out"], is_causal=int(causal and not written_out), scale=scale
    )
    graph = helper.make_graph([node], "attention", inputs, [helper.make_tensor_value_info("out", NAMES[dtype], q)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@cache
def visible(seqlen_q, seqlen_kv):
    return torch.ones(seqlen_q, seqlen_kv, dtype=torch.bool).tril(seqlen_kv - seqlen_q).numpy()


def attention(q, k, v, *, causal, scale):
    if causal and q.shape[2] > k.shape[2]:
        raise NotImplementedError("rows that see no key are not zero there")
    run = session(tuple(q.shape), tuple(k.shape), q.dtype, causal, scale).run
    feed = {"q": q.contiguous().numpy(), "k": k.contiguous().numpy(), "v": v.contiguous().numpy()}
    if causal and q.shape[2] != k.shape[2]:
        feed["mask"] = visible(q.shape[2], k.shape[2])
    return torch.from_numpy(run(None, feed)[0])
'''

_EMPTY = '''"""No attention at all: what asking a kernel's process costs."""

import torch


def attention(q, k, v, *, causal, scale):
    return torch.empty_like(q)
'''


PEERS = {
    "torch-sdpa": TORCH_SDPA,
    "cudnn": _PINNED.replace("BACKEND", "CUDNN_ATTENTION"),
    "fa2": _PINNED.replace("BACKEND", "FLASH_ATTENTION"),
    "fa3": _FA3,
    "fa4": _FA4,
    "flashinfer": _FLASHINFER,
    "flex": _FLEX,
    "onnxruntime": _ONNXRUNTIME,
}
PACKAGES = {
    "cudnn": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    "fa2": ("torch",),
    "fa3": ("fa3-fwd", "flash-attn-3"),
    "fa4": ("flash-attn-4",),
    "flashinfer": ("flashinfer-python",),
    "flex": ("torch",),
    "onnxruntime": ("onnxruntime",),
}
"""The packages whose version says which one a peer is; the first that is installed counts."""
EMPTY = "(empty)"
"""Name of the kernel that does nothing; nobody is compared with it."""


def peer(name: str) -> Subject:
    """The kernel that stands for peer `name`."""
    if name == EMPTY:
        return Subject(label=name, source=_EMPTY)
    if name not in PEERS:
        raise InvalidInput(f"--avo-peers: unknown peer {name!r}, expected some of {', '.join(sorted(PEERS))}")
    return Subject(label=name, source=PEERS[name])


def version(name: str) -> str:
    """Package and version of what a peer runs, as installed here; "" where torch itself is all there is to say."""
    found = ((package, installed_version(package)) for package in PACKAGES.get(name, ()))
    return next((f"is {package} {number}" for package, number in found if number != "absent"), "")
