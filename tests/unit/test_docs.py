"""The commands and options that README.md and docs/ name are those of the command line, read by its own parser.

In code blocks a command stands whole. In the text it may lack what it needs, and so may `--option value` alone, which some command
must know. What stands for something else:

    [--option]     what may be left out; it is read
    ...            what is left out
    N, FILE, NAME  a value; N is a number. A command in capitals is any command
    a|b            one of these
"""

import contextlib
import importlib
import io
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import retort.pipeline
from retort.cli import COMMANDS, main
from retort.pipeline.jobs import JOBS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = {"--config FILE.yaml", "--labelled N", "--minutes"}
"""Named alone: an option that every command has and that no help lists; options of the benchmarks."""

BLOCK = re.compile(r"^```[\s\S]*?^```|(?:^ {4}.*\n)+", re.MULTILINE)
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:\S*/)?retort (.+)", re.DOTALL)
LACKING = re.compile(r".*: the options: |field '\S+' is (?:missing\.|{.*} *:.* is missing: .*) *")
JOB = re.compile(r".* python jobs/(\w+)\.py (.+)")


def blocks(text):
    """Commands of the code blocks."""
    for block in BLOCK.findall(text):
        for line in block.splitlines():
            if found := COMMAND.match(line.strip()):
                yield found[1]
            elif found := JOB.match(line):
                yield f"{found[1].replace('_', '-')} {found[2]}"


def spans(text):
    """What stands as code in the text."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def words(text):
    """The arguments that a text stands for, and whether some are left out."""
    found = shlex.split(re.sub(r"\[([^\]\"]+)\]", r"\1", text), comments=True)
    return ["1" if word == "N" else word.split("|")[0] for word in found if word != "..."], "..." in found


class Parsed(Exception):
    """The real parser was content."""


@pytest.fixture
def complaint(monkeypatch, capsys):
    """complaint(arguments, partial) -> what the command line says against them; nothing is run."""

    def stopped(real):
        def parse(*given, **named):
            real(*given, **named)
            raise Parsed

        return parse

    for name in [
        "retort.cli",
        *(f"retort.pipeline.{item.name}" for item in pkgutil.iter_modules(retort.pipeline.__path__)),
    ]:
        module = importlib.import_module(name)
        if hasattr(module, "parse"):
            monkeypatch.setattr(module, "parse", stopped(module.parse))

    def told(arguments, partial):
        try:
            main(arguments)
        except (Parsed, SystemExit) as end:
            if isinstance(end, Parsed) or end.code == 0:
                capsys.readouterr()
                return ""
        said = capsys.readouterr().err.strip().splitlines()[-1]
        lacking = said.endswith("expected one argument") or not re.sub(LACKING, "", said)
        return "" if partial and lacking else said

    return told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_code_block_is_one(page, complaint):
    wrong = {}
    for text in blocks(page.read_text().replace("\\\n", " ")):
        arguments, partial = words(text)
        if said := complaint(arguments, partial):
            wrong[text] = said
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_text_is_one(page, complaint):
    wrong = {}
    for span in spans(page.read_text()):
        found = COMMAND.fullmatch(span)
        if found and not words(found[1])[0][0].isupper() and (said := complaint(words(found[1])[0], True)):
            wrong[span] = said
    assert not wrong


@pytest.fixture(scope="module")
def options():
    """Command -> the options that its help names."""
    found = {}
    for name in [*JOBS, *(name for name in COMMANDS if name != "keys")]:
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            main([name, "--help"])
        found[name] = set(re.findall(r"--[\w.-]+", said.getvalue()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_the_text_is_one_of_some_command(page, complaint, options):
    wrong = {}
    for span in spans(page.read_text()):
        if span.startswith("--") and span not in OTHERS:
            given = words(span)[0]
            said = {name: complaint([name, *given], True) for name, known in options.items() if given[0] in known}
            if not said or all(said.values()):
                wrong[span] = said
    assert not wrong


def test_what_is_wrong_is_seen(complaint):
    assert "unrecognized arguments: false" in complaint(words("score --word-level false")[0], True)
    assert "unrecognized arguments: --indx" in complaint(words("promote live [--indx I]")[0], False)
    assert "no command 'destil'" in complaint(words("destil ...")[0], True)
    assert "field 'max_queries' is 'many'" in complaint(words("mine --max-queries many ...")[0], True)
    assert complaint(["distil"], False) and not complaint(["distil"], True)
