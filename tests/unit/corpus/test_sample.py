"""The embedded sample, on small packages written to a temporary folder, and once on an installed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from retort.corpus import sample
from retort.corpus.docstrings import read_docstring
from retort.corpus.sample import Source, docstring_sample, installed_sources, module_docstrings, module_name, split_of

BODY = (
    "The {thing} is read from the stream in blocks, each block is checked against its own sum, and blocks whose sum is "
    "wrong are asked for again until the {thing} is whole or the patience of the caller has come to its end."
)


def write_package(folder: Path, name: str, modules: dict[str, str]) -> Source:
    (folder / name).mkdir()
    found = []
    for module, text in modules.items():
        path = folder / name / f"{module}.py"
        path.write_text(text, encoding="utf-8")
        found.append((f"{name}.{module}", path))
    return Source(name, "1.0", found)


def function(name: str, summary: str, body: str) -> str:
    return f'def {name}():\n    """{summary}\n\n    {body}\n    """\n'


def test_a_docstring_gives_a_passage_without_its_summary_and_a_query(tmp_path: Path) -> None:
    source = write_package(
        tmp_path, "pack", {"one": function("fetch", "Fetch a remote tree.", BODY.format(thing="tree"))}
    )
    found = docstring_sample(sources=[source], max_words=60)
    assert [passage.passage_id for passage in found.passages] == ["pack.one.fetch"]
    passage = found.passages[0]
    assert (passage.section, passage.doc_id, passage.title, passage.lang) == ("pack", "pack.one", "", "en")
    assert passage.text == BODY.format(thing="tree")
    split = found.splits[split_of("pack.one")]
    assert [query.text for query in split.queries] == ["Fetch a remote tree"]
    assert split.qrels == {"pack.one.fetch#summary": {"pack.one.fetch": 1}}
    assert found.packages == {"pack": "1.0"}


def test_no_module_is_in_two_splits_and_all_splits_fill(tmp_path: Path) -> None:
    names = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "juniper"]
    modules = {
        f"m{i}": "".join(
            function(
                f"{name}{i}",
                f"Weigh the {name} number {i} on scale {name}{i}",
                f"{name} {i} " * 8 + "is weighed slowly.",
            )
            for name in names[:2]
        )
        for i in range(60)
    }
    found = docstring_sample(sources=[write_package(tmp_path, "pack", modules)], min_words=5)
    modules_of = {
        name: {passage_id.rsplit(".", 1)[0] for grades in split.qrels.values() for passage_id in grades}
        for name, split in found.splits.items()
    }
    assert all(modules_of.values())
    assert not modules_of["train"] & modules_of["test"]
    assert not modules_of["train"] & modules_of["dev"]
    assert not modules_of["dev"] & modules_of["test"]
    assert sum(len(split.queries) for split in found.splits.values()) == len(found.passages)


def test_copies_of_bodies_and_of_summaries_are_taken_once(tmp_path: Path) -> None:
    text = (
        function("first", "Fetch a remote tree.", BODY.format(thing="tree"))
        + function("near", "Fetch the far tree again.", BODY.format(thing="tree") + " Nothing else is done.")
        + function(
            "same_words", "fetch a REMOTE tree", "Another body altogether speaks of " + "winter apples and pears " * 4
        )
        + function(
            "other", "Sort apples by weight.", "Another body altogether speaks of " + "ripe pears, plums, figs " * 4
        )
    )
    found = docstring_sample(sources=[write_package(tmp_path, "pack", {"one": text})])
    assert [passage.passage_id for passage in found.passages] == ["pack.one.first", "pack.one.other"]


def test_limit_is_shared_between_packages(tmp_path: Path) -> None:
    def module(word: str) -> str:
        return function(
            "go", f"Go to the {word} house", f"{word} " * 3 + f"stands by the {word} road near the {word} mill"
        )

    sources = [
        write_package(tmp_path, "large", {f"m{i}": module(f"la{chr(97 + i)}") for i in range(20)}),
        write_package(tmp_path, "small", {f"m{i}": module(f"sm{chr(97 + i)}") for i in range(3)}),
    ]
    found = docstring_sample(8, sources=sources, min_words=5)
    sections = [passage.section for passage in found.passages]
    assert (sections.count("large"), sections.count("small")) == (5, 3)


def test_the_sample_is_the_same_each_time(tmp_path: Path) -> None:
    modules = {
        f"m{i}": function("run", f"Run the machine number {i}", f"machine {i} wheel {i} turns " * 6) for i in range(9)
    }
    source = write_package(tmp_path, "pack", modules)
    assert docstring_sample(5, sources=[source]) == docstring_sample(5, sources=[source])


def test_private_and_broken_code_is_left_out(tmp_path: Path) -> None:
    good = tmp_path / "good.py"
    good.write_text(
        'class A:\n    """Doc A"""\n    def _x(self):\n        """Doc x"""\n    def y(self):\n        """Doc y"""\n'
    )
    broken = tmp_path / "broken.py"
    broken.write_text('print """Python 2"""\n')
    binary = tmp_path / "binary.py"
    binary.write_bytes(b'"""\xff\xfe"""')
    assert list(module_docstrings(good)) == [("A", "Doc A"), ("A.y", "Doc y")]
    assert list(module_docstrings(broken)) == list(module_docstrings(binary)) == []
    assert list(module_docstrings(tmp_path / "absent.py")) == []


def test_module_name_of_a_package_is_its_folder() -> None:
    assert module_name("numpy/fft/__init__.py") == "numpy.fft"
    assert module_name("numpy/fft/_pocketfft.py") == "numpy.fft._pocketfft"


@pytest.mark.parametrize(
    "docstring",
    [
        "Initialize self.\n\n" + BODY,
        "Too short.\n\n" + BODY,
        "See the other function for this.\n\n" + BODY,
        "A summary without a body at all.",
        "The block is checked\n\nA short body.",
        "Each block is checked against its own sum.\n\n" + BODY,
    ],
    ids=["initialize", "two-words", "see", "no-body", "short-body", "summary-in-body"],
)
def test_docstrings_that_teach_nothing_are_refused(docstring: str) -> None:
    assert read_docstring(docstring, max_words=60, min_words=15) is None


def test_code_and_markup_go_and_words_stay() -> None:
    docstring = """
    solve(a, b) -> Tensor

    Solve a system of equations. It needs a square matrix.

    The :class:`~pack.Matrix` ``a`` must be regular [1]_, see `the manual <http://x.org>`_ for what regular means here.

    Parameters
    ----------
    a : array
        Left side of the equations, a square one.

    .. code-block:: python

        hidden(code)

    Examples
    --------
    >>> solve(a, b)
    array([1])

    Notes
    -----
    Costs grow with the cube of the size.
    """
    read = read_docstring("\n".join(line[4:] for line in docstring.splitlines()), max_words=80, min_words=5)
    assert read is not None
    assert read.summary == "Solve a system of equations"
    assert read.body == (
        "It needs a square matrix. The pack.Matrix a must be regular, see the manual for what regular means here. "
        "Parameters a : array Left side of the equations, a square one. Notes Costs grow with the cube of the size."
    )


def test_a_long_body_is_cut_at_a_sentence() -> None:
    sentences = [f"Sentence number {i} has exactly seven words." for i in range(10)]
    read = read_docstring("Count the sentences here.\n\n" + " ".join(sentences), max_words=25, min_words=5)
    assert read is not None
    assert read.body == " ".join(sentences[:3])


def test_an_installed_package_gives_real_queries() -> None:
    sources = [
        source for source in installed_sources(["pydantic", "no-such-distribution"]) if source.package == "pydantic"
    ]
    assert len(sources) == 1
    found = docstring_sample(40, sources=sources)
    assert len(found.passages) >= 40
    assert len({passage.passage_id for passage in found.passages}) == len(found.passages)
    assert all(5 < len(passage.text.split()) <= 60 for passage in found.passages)
    assert sample.SPLIT_SHARES.keys() <= found.splits.keys()
