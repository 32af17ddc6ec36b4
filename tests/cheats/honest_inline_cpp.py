"""C++ that is compiled on first use.

CLASS:  honest
EXPECT: accept
TARGET: cpu
LIMITS: build=120,check=60,time=60
"""

import ctypes
import os
import subprocess
import tempfile

import torch

SOURCE = r"""
#include <algorithm>
#include <cmath>
#include <vector>
extern "C" void attention(const float* q, const float* k, const float* v, float* out, int heads, int group, int rows,
                          int keys, int width, int causal, float scale) {
  std::vector<float> weights(keys);
  for (int row = 0; row < heads * rows; ++row) {
    int head = row / rows, seen = causal ? std::max(0, std::min(keys, row % rows + 1 + keys - rows)) : keys;
    const float *key = k + (long)(head / group) * keys * width, *value = v + (long)(head / group) * keys * width;
    float best = -INFINITY, total = 0, *to = out + (long)row * width;
    for (int j = 0; j < seen; ++j) {
      float sum = 0;
      for (int d = 0; d < width; ++d) sum += q[(long)row * width + d] * key[(long)j * width + d];
      best = std::max(best, weights[j] = sum * scale);
    }
    std::fill(to, to + width, 0.f);
    for (int j = 0; j < seen; ++j) {
      float weight = std::exp(weights[j] - best);
      total += weight;
      for (int d = 0; d < width; ++d) to[d] += weight * value[(long)j * width + d];
    }
    for (int d = 0; d < width && seen; ++d) to[d] /= total;
  }
}
"""
library = None


def build():
    folder = tempfile.mkdtemp()
    source, target = os.path.join(folder, "a.cpp"), os.path.join(folder, "a.so")
    with open(source, "w") as file:
        file.write(SOURCE)
    subprocess.run(["g++", "-O3", "-march=native", "-shared", "-fPIC", source, "-o", target], check=True)
    return ctypes.CDLL(target)


def attention(q, k, v, *, causal, scale):
    global library
    if library is None:
        library = build()
    group, (rows, keys, width) = q.shape[1] // k.shape[1], (q.shape[-2], k.shape[-2], q.shape[-1])
    a, b, c = (x.float().contiguous() for x in (q, k, v))
    out = torch.empty(q.shape)
    library.attention(
        *(ctypes.c_void_p(x.data_ptr()) for x in (a, b, c, out)),
        q.shape[0] * q.shape[1],
        group,
        rows,
        keys,
        width,
        int(causal),
        ctypes.c_float(scale),
    )
    return out.to(q.dtype)
