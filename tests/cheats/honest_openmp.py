"""C++ with OpenMP that torch's load_inline builds on first use; plain operations where it cannot.

CLASS:  honest
EXPECT: accept
TARGET: cpu
LIMITS: build=240,check=120,time=60
"""

import os
import tempfile

import torch
from torch.utils.cpp_extension import load_inline

SOURCE = r"""
#include <algorithm>
#include <cmath>
#include <vector>
void attend(at::Tensor q, at::Tensor k, at::Tensor v, at::Tensor out, bool causal, double scale) {
  int64_t heads = q.size(1), rows = q.size(2), keys = k.size(2), width = q.size(3), group = heads / k.size(1);
  const float *from = q.const_data_ptr<float>(), *key = k.const_data_ptr<float>(), *value = v.const_data_ptr<float>();
  float *to = out.data_ptr<float>();
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < q.size(0) * heads * rows; ++row) {
    int64_t head = row / rows, place = row % rows;
    int64_t seen = causal ? std::max<int64_t>(0, std::min(keys, place + 1 + keys - rows)) : keys;
    const float *keys_of = key + head / group * keys * width, *values_of = value + head / group * keys * width;
    std::vector<float> weights(seen);
    float best = -INFINITY, total = 0;
    for (int64_t j = 0; j < seen; ++j) {
      float sum = 0;
      for (int64_t d = 0; d < width; ++d) sum += from[row * width + d] * keys_of[j * width + d];
      best = std::max(best, weights[j] = sum * (float)scale);
    }
    for (int64_t j = 0; j < seen; ++j) {
      float weight = std::exp(weights[j] - best);
      total += weight;
      for (int64_t d = 0; d < width; ++d) to[row * width + d] += weight * values_of[j * width + d];
    }
    for (int64_t d = 0; d < width && seen; ++d) to[row * width + d] /= total;
  }
}
"""
built = None


def build():
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", tempfile.mkdtemp())
    flags = ["-O3", "-march=native", "-fopenmp"]
    try:
        found = load_inline("attend", SOURCE, functions=["attend"], extra_cflags=flags, extra_ldflags=["-fopenmp"])
    except (OSError, RuntimeError, ImportError):
        return plain  # no compiler, or no ninja
    return found.attend


def plain(q, k, v, out, causal, scale):
    group = q.shape[1] // k.shape[1]
    scores = (q @ k.repeat_interleave(group, 1).transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows), float("-inf"))
    out.copy_(torch.nan_to_num(torch.softmax(scores, -1)) @ v.repeat_interleave(group, 1))


def attention(q, k, v, *, causal, scale):
    global built
    built = built or build()
    out = torch.zeros(q.shape)
    built(*(x.float().contiguous() for x in (q, k, v)), out, causal, scale)
    return out.to(q.dtype)
