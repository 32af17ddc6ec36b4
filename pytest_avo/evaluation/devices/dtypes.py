"""torch's dtypes by the names that shapes give them."""

from __future__ import annotations

import torch

from pytest_avo.core.shape import DTYPE_NAMES, Dtype

TORCH_DTYPES: dict[Dtype, torch.dtype] = {dtype: getattr(torch, name) for dtype, name in DTYPE_NAMES.items()}
