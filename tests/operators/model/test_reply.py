"""What is read out of a model's plain text."""

from __future__ import annotations

import json
from textwrap import indent

import pytest

from pytest_avo.operators.model.reply import last_object, split_at_code


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('First {"a": 1}, no, rather:\n```json\n{"a": {"b": [2]}}\n```\nThat is it.', {"a": {"b": [2]}}),
        ('set {x | x > 0} then {"a": 1} and {broken', {"a": 1}),
        ('{"a": "a brace } in a text {"}', {"a": "a brace } in a text {"}),
        ('{"a": 1} and ' + '{"a":' * 20_000, {"a": 1}),
        ("[1, 2]", None),
        ("{not json}", None),
        ("", None),
    ],
)
def test_last_object(text: str, found: object) -> None:
    assert last_object(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("Before:\n```py\nx = 1\n```\nafter:\n```\nx = 2\n```\n", "x = 2\n"),
        ("```python\ns = '''\nno fence: ``` here\n'''\n```", "s = '''\nno fence: ``` here\n'''\n"),
        ('```json\n{"a": 1}\n```', None),
        ("```Python\nx = 1\n```\n```json\n{}\n```\nand\n```sh\nls\n```", "x = 1\n"),
        ('```\nx = 1\n```\n```\n{"a": 1}\n```', "x = 1\n"),
        ("x = 1", None),
        ("```python\nx = 1", None),
    ],
)
def test_the_last_block_of_code(text: str, found: str | None) -> None:
    assert split_at_code(text)[1] == found


KERNEL = "import torch\n\ndef attention(q, k, v, *, causal, scale):\n    return q\n"
FENCED = f"```python\n{KERNEL}```\n"


@pytest.mark.parametrize(
    "text",
    [
        f"```python kernels/x.py\n{KERNEL}```",
        f'```python title="x.py"\n{KERNEL}```',
        f"```python:kernels/x.py\n{KERNEL}```",
        f"````python\n{KERNEL}````",
        f"~~~python\n{KERNEL}~~~",
        f"```{{.python}}\n{KERNEL}```",
        f"1. so:\n\n   ```python\n{indent(KERNEL, '   ')}   ```",
        FENCED.replace("\n", "\r\n"),
        f"<think>\nperhaps\n{FENCED.replace('return q', 'return k')}no\n</think>\n{FENCED}",
        f"{FENCED}<think>\nor\n{FENCED.replace('return q', 'return k')}</think>",
        f"<think>\n{FENCED}</think>\nThat is it.",
        f"{FENCED}Call it:\n```python\nout = attention(q, k, v, causal=True, scale=1.0)\n```",
        f"{FENCED}Run:\n```\npytest --avo-bench x.py\n```\n```diff\n-a\n+b\n```",
        f"It is this:\n```python\n{KERNEL}",
        KERNEL,
        json.dumps({"hypothesis": "x", "code": KERNEL}),
        json.dumps({"files": [{"kernel.py": KERNEL}]}),
        json.dumps({"source": FENCED}),
        f"\ufeff{FENCED}",
        FENCED.replace("\n", "\r"),
        indent(FENCED, "> ", lambda _: True),
        f"```python\n{KERNEL}```that is all",
        f"```python\n{KERNEL}```\u2028",
        f"```python\n{KERNEL.replace('    ', 4 * chr(0xA0))}```",
        "```python\n" + "".join(f"{n:3d} | {line}" for n, line in enumerate(KERNEL.splitlines(True), 1)) + "```",
        f"```bash\ncat > kernel.py <<'EOF'\n{KERNEL}EOF\n```",
        f"<pre><code>\n{KERNEL}</code></pre>",
        f"Here it is:\n\n{KERNEL}",
        f"<think>\nso ```python\nx = 1\n```\nrather\n\n{FENCED}",
    ],
)
def test_the_block_that_defines_attention_is_the_kernel(text: str) -> None:
    assert split_at_code(text)[1] == KERNEL


def test_of_two_kernels_the_one_that_is_not_the_parent_is_meant() -> None:
    parent = KERNEL.replace("return q", "return k")
    text = f"New:\n{FENCED}For comparison, the old one:\n{FENCED.replace('return q', 'return k')}"
    assert split_at_code(text, other_than=parent)[1] == KERNEL
    assert split_at_code(f"As it was:\n```python\n{parent}```", other_than=parent)[1] == parent


def test_a_fence_within_a_docstring_ends_no_block() -> None:
    source = f'"""Use it so:\n\n```python\nattention(q, k, v, causal=True, scale=1.0)\n```\n"""\n{KERNEL}'
    assert split_at_code(f"First.\n```python\n{source}```\n{{}}") == ("First.\n", source, "{}")


def test_what_stands_around_the_code() -> None:
    before, code, after = split_at_code('I add {"x": 1}.\n```python\nx = {"y": 2}\n```\n```json\n{"a": 1}\n```')
    assert (last_object(before), code, last_object(after)) == ({"x": 1}, 'x = {"y": 2}\n', {"a": 1})
