"""Random numbers that a kernel cannot foresee: generators with more state than anybody can try, and fresh noise.

A kernel that finds the seed, or learns the rows from which inputs are put together, computes on what it knows instead
of what it is given. torch's generator on the CPU takes 32 bits of a seed, whatever it is given; here all of its 624
words are drawn from the seed. Noise for timed rounds comes from NumPy's SFC64, with 256 bits of state (Chris
Doty-Humphrey's small fast chaotic generator), or from the GPU's Philox, whose key has 64 bits.
"""

from __future__ import annotations

import math

import numpy as np
import torch

_WORDS, _FIRST_WORD, _WORD_BYTES = 624, 24, 8
"""Where the Mersenne twister's words lie in what torch.Generator.get_state() gives, 32 bits each in 64."""
_HALF_WIDTH = math.sqrt(3)
"""Half the width of a uniform distribution with unit variance."""


def generator(seed: int, device: str) -> torch.Generator:
    """A source of random numbers whose draws lie on a torch device ("cpu" or "cuda"). seed: of any size."""
    words = np.random.SeedSequence(seed).generate_state(_WORDS)
    source = torch.Generator(device).manual_seed(int(words[0]) << 32 | int(words[1]))
    if device == "cpu":
        state = source.get_state()
        end = _FIRST_WORD + _WORDS * _WORD_BYTES
        state[_FIRST_WORD:end] = torch.from_numpy(words.astype(np.uint64).view(np.uint8))
        source.set_state(state)
    return source


class Numbers:
    """Endless fresh numbers of mean 0 and variance 1: uniform on the CPU, where normal ones cost several times that."""

    def __init__(self, source: torch.Generator) -> None:
        """source: what the noise follows from, and where it lies."""
        self._source = source
        seed = torch.randint(1 << 62, (8,), generator=source, device=source.device).tolist()
        self._bits = np.random.SFC64(np.random.SeedSequence(seed))

    def draw(self, *size: int, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of this size."""
        if self._source.device.type != "cpu":
            return torch.randn(*size, generator=self._source, device=self._source.device, dtype=dtype)
        count = math.prod(size)
        # Words as signed numbers: NumPy's own numbers of single precision take twice the time. As with those, a quarter
        # of the generator's bits is shown to nobody.
        bits = torch.from_numpy(self._bits.random_raw(-(-count // 2)).view(np.int32)[:count]).bitwise_and_(-256)
        found = bits.view(torch.float32).copy_(bits)  # where they lie: memory that is new costs as much again
        return found.mul_(_HALF_WIDTH / (1 << 31)).view(size).to(dtype)
