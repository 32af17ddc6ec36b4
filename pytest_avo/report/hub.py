"""A kernel as a repository of the Hugging Face kernel hub: what its builder takes, and what `kernels` loads as it is.

Nothing is compiled for a kernel of one Python file, so the build stands beside its source: `build.toml` and
`torch-ext/` for kernel-builder, `build/torch-BACKEND/` for `kernels.get_kernel` and `get_local_kernel`.
"""

from __future__ import annotations

import json
import re

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.signature import signatures
from pytest_avo.core.source import PROVENANCE

NAME = re.compile(r"[a-z][-a-z0-9]*[a-z0-9]")
CAPABILITIES = {"sm80": "8.0", "sm90": "9.0", "sm100": "10.0"}


def hub_files(kernel: Kernel, *, name: str, license_: str) -> dict[str, str]:
    """Paths in the repository and their texts. InvalidInput for a kernel without a claim or a name the hub forbids."""
    if kernel.fault or kernel.claim is None:
        raise InvalidInput(f"{kernel.path}: {kernel.fault or 'claims nothing: expected AVO = {...} in the file'}")
    if not NAME.fullmatch(name):
        raise InvalidInput(f"name {name!r}: expected lower-case letters, digits and dashes, a letter first")
    package = name.replace("-", "_")
    module = {"__init__.py": _init(kernel), "kernel.py": kernel.source}
    backend = "cpu" if kernel.claim.target == "cpu" else "cuda"
    variant = f"build/torch-{backend}"
    return {
        "build.toml": _build(kernel, name, license_, backend),
        "README.md": _card(kernel, name, license_),
        **{f"torch-ext/{package}/{file}": text for file, text in module.items()},
        **{f"{variant}/{file}": text for file, text in module.items()},
        f"{variant}/metadata.json": _metadata(kernel, name, license_, backend),
    }


def _functions(kernel: Kernel) -> list[str]:
    return [signature.name for signature in signatures(kernel.claim)]


def _init(kernel: Kernel) -> str:
    functions = _functions(kernel)
    listed = ", ".join(f'"{function}"' for function in functions)
    return f'''"""Attention, as exported by pytest-avo from a kernel with the digest {kernel.digest}."""

from .kernel import {", ".join(functions)}

__all__ = [{listed}]
'''


def _capability(kernel: Kernel) -> str:
    assert kernel.claim is not None
    return CAPABILITIES[kernel.claim.target]


def _build(kernel: Kernel, name: str, license_: str, backend: str) -> str:
    capabilities = f'cuda-capabilities = ["{_capability(kernel)}"]\n' if backend == "cuda" else ""
    return f"""[general]
name = "{name}"
version = 1
license = "{license_}"
backends = ["{backend}"]

[torch-noarch]
{capabilities}"""


def _metadata(kernel: Kernel, name: str, license_: str, backend: str) -> str:
    device = {"type": backend} | ({"archs": [_capability(kernel)]} if backend == "cuda" else {})
    document = {
        "name": name,
        "id": f"_{name.replace('-', '_')}_{backend}_{kernel.digest[:7]}",
        "version": 1,
        "license": license_,
        "python-depends": [],
        "backend": device,
    }
    return json.dumps(document, indent=2) + "\n"


def _card(kernel: Kernel, name: str, license_: str) -> str:
    found = [line.removeprefix(PROVENANCE) for line in kernel.source.splitlines() if line.startswith(PROVENANCE)]
    origin = "\n".join(f"- {line}" for line in found) or "- not promoted by an evolution: written or edited by hand"
    return f"""---
license: {license_}
tags: [kernel]
---

# {name}

`attention(q, k, v, *, causal, scale)`: q (batch, heads_q, seqlen_q, head_dim), k and v (batch, heads_kv, seqlen_kv,
head_dim). The causal mask is aligned bottom-right. What it does not take raises NotImplementedError.

Claimed and checked by pytest-avo: {kernel.claim}. Digest {kernel.digest}.

{origin}
"""
