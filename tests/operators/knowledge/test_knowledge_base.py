"""Search and reading in the knowledge base, shipped and the user's own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_avo.operators.knowledge.knowledge_base import KnowledgeBase, KnowledgeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUIDE = """\
Words before any heading.

# Softmax

About the softmax.

## Rescaling

Rescale the accumulator when the maximum moves.

```python
# not a heading
x = 1
```

## Masks

Mask only diagonal blocks.

# Loading

Bulk copies into shared memory.
"""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[KnowledgeBase]:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    (folder / "guide.md").write_text(GUIDE)
    (folder / "sub" / "kernel.py").write_text("".join(f"line_{n} = {n}\n" for n in range(1, 151)))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.md").write_text("# Secret\n")
    with KnowledgeBase([folder], shipped=False) as knowledge:
        yield knowledge


@pytest.fixture(scope="module")
def shipped() -> Iterator[KnowledgeBase]:
    with KnowledgeBase() as knowledge:
        yield knowledge


def test_files_and_headings(base: KnowledgeBase) -> None:
    assert base.files() == ["mine/guide.md", "mine/sub/kernel.py"]
    assert base.headings("mine/guide.md") == ["", "Softmax", "Softmax / Rescaling", "Softmax / Masks", "Loading"]


def test_search_returns_passages_with_file_and_heading(base: KnowledgeBase) -> None:
    first = base.search("when is the accumulator rescaled?")[0]
    assert (first.file, first.heading) == ("mine/guide.md", "Softmax / Rescaling")
    assert "# not a heading" in first.text


def test_search_weighs_headings_above_text(base: KnowledgeBase) -> None:
    assert base.search("masks softmax")[0].heading == "Softmax / Masks"


def test_search_is_limited_and_finds_code(base: KnowledgeBase) -> None:
    assert len(base.search("line 100 softmax memory", limit=2)) == 2
    assert base.search("line_100")[0].heading == "lines 61 to 120"


@pytest.mark.parametrize("query", ["", "   ", '"', "()*^-:{}", "__", "?"])
def test_query_without_words_finds_nothing(base: KnowledgeBase, query: str) -> None:
    assert base.search(query) == []


@pytest.mark.parametrize(
    "query",
    [
        '"softmax',
        "softmax AND",
        "NEAR(softmax, 3)",
        "softmax*",
        "text:softmax",
        "-softmax",
        "NOT softmax",
        "soft'max softmax",
    ],
)
def test_fts_syntax_in_a_query_is_only_words(base: KnowledgeBase, query: str) -> None:
    assert any("Softmax" in each.heading for each in base.search(query))


@pytest.fixture(scope="module")
def empty() -> Iterator[KnowledgeBase]:
    with KnowledgeBase(shipped=False) as made:
        yield made


@given(st.text(max_size=60))
def test_no_query_is_an_error(empty: KnowledgeBase, query: str) -> None:
    assert empty.search(query) == []


def test_query_of_common_words_only_still_searches(base: KnowledgeBase) -> None:
    assert base.search("the when")


def test_read_whole_and_by_heading(base: KnowledgeBase) -> None:
    assert base.read("mine/guide.md").startswith("Words before any heading.")
    assert "Masks" not in base.read("mine/guide.md", "Rescaling")
    below = base.read("mine/guide.md", "# Softmax")
    assert "Mask only diagonal blocks." in below
    assert "Bulk copies" not in below


def test_unknown_file_and_heading_say_what_there_is(base: KnowledgeBase) -> None:
    with pytest.raises(KnowledgeError, match=r"no 'mine/giude.md': did you mean mine/guide.md"):
        base.read("mine/giude.md")
    with pytest.raises(KnowledgeError, match=r"no heading 'Tiling': it has .*Softmax / Masks; Loading"):
        base.read("mine/guide.md", "Tiling")


def test_long_sections_are_cut_between_lines(tmp_path: Path) -> None:
    (tmp_path / "long.md").write_text("# Long\n" + "".join(f"word{n} and more of it\n" for n in range(1000)))
    with KnowledgeBase([tmp_path], shipped=False) as knowledge:
        name = knowledge.files()[0]
        found = knowledge.search("word777")
        assert len(found) == 1
        assert len(found[0].text) < 4100
        assert knowledge.read(name, "Long").count("\n") == 1000


def test_folders_of_one_name_do_not_hide_each_other(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "docs").mkdir(parents=True)
        (tmp_path / name / "docs" / "read.md").write_text(f"# {name}\n")
    folders = [tmp_path / "one" / "docs", tmp_path / "two" / "docs", tmp_path / "one" / ".." / "one" / "docs"]
    with KnowledgeBase(folders, shipped=False) as knowledge:
        assert knowledge.files() == ["docs/read.md", "docs-2/read.md"]
        assert knowledge.read("docs-2/read.md") == "# two"


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match=r"missing does not exist: expected a directory"):
        KnowledgeBase([tmp_path / "missing"])
    (tmp_path / "file.md").write_text("# x\n")
    with pytest.raises(KnowledgeError, match=r"file\.md is no directory"):
        KnowledgeBase([tmp_path / "file.md"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(KnowledgeError, match=r"empty has no text files: expected \.c"):
        KnowledgeBase([tmp_path / "empty"])
    (tmp_path / "empty" / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(KnowledgeError, match=r"latin\.txt cannot be read as UTF-8"):
        KnowledgeBase([tmp_path / "empty"])


def test_search_from_several_threads(base: KnowledgeBase) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(base.search("softmax masks", 3)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 8


@pytest.mark.parametrize(
    ("question", "file"),
    [
        ("what does setmaxnreg do", "ptx-instructions.md"),
        ("tensor memory tmem tcgen05", "blackwell-architecture.md"),
        ("shared memory per SM on H200", "hopper-architecture.md"),
        ("gluon warp_specialize limits block shape power of two", "triton-and-gluon.md"),
        ("ping-pong schedule of FlashAttention-3", "flash-attention.md"),
        ("running maximum rescale -inf rows", "online-softmax.md"),
        ("longest rows first causal load balance", "causal-scheduling.md"),
        ("pack query heads of a group into rows", "gqa-packing.md"),
        ("number of splits and combine for decode", "split-kv-decode.md"),
        ("AVX-512 bf16 threads OpenMP", "cpu-kernels.md"),
        ("how to read SASS for spills HGMMA", "profiling-and-sass.md"),
        ("noise floor interleaved rounds", "measuring.md"),
        ("module-level AVO literal TUNABLES contract", "contract.md"),
    ],
)
def test_shipped_knowledge_answers_a_kernel_writers_questions(shipped: KnowledgeBase, question: str, file: str) -> None:
    assert file in [each.file for each in shipped.search(question, limit=2)]


def test_shipped_files_have_headings_and_name_sources(shipped: KnowledgeBase) -> None:
    assert len(shipped.files()) == 14
    for file in shipped.files():
        headings = shipped.headings(file)
        assert len(headings) >= 4, file
        assert headings[-1].endswith("/ Sources"), file
        assert len(shipped.read(file).splitlines()) <= 160, file
