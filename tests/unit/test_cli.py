"""What the command line itself prints: errors whole, in one line, with exit code 2."""

import pytest

from retort.cli import main


def test_an_error_with_brackets_is_printed_whole(capsys):
    assert main(["embed", "--corpus", "no[cpu]such", "--store", "/tmp/[bold]nowhere"]) == 2
    said = capsys.readouterr().err
    assert "no[cpu]such" in said and said.startswith("retort embed: ") and said.count("\n") == 1


def test_an_unknown_command_lists_the_commands(capsys):
    assert main(["destil"]) == 2
    assert "distil" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_names_every_job(capsys, arguments):
    assert main(arguments) == 0
    assert "train-teacher" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "docs", "--port", "many"], "retort serve: the options: field 'port' is 'many'"),
        (["distil"], "retort distil: the options: field 'corpus' is missing"),
    ],
)
def test_a_wrong_option_is_told_after_the_programs_name_and_that_once(capsys, arguments, told):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(told) and shown.count("retort") == 1


def test_a_log_level_that_there_is_not_is_told_with_those_there_are(capsys, monkeypatch):
    monkeypatch.setenv("RETORT_LOG", "loud")
    assert main(["ls"]) == 2
    told = capsys.readouterr().err
    assert "RETORT_LOG is 'loud'. Levels: CRITICAL" in told and "DEBUG" in told and told.count("\n") == 1
    monkeypatch.setenv("RETORT_LOG", "error")
    assert main(["ls"]) == 0


def test_a_kind_of_artefact_that_there_is_not_is_told_with_those_there_are(capsys):
    assert main(["ls", "corpora"]) == 2
    assert "no kind of artefact 'corpora'. Kinds: corpus, queries, " in capsys.readouterr().err
    assert main(["ls", "corpus"]) == 0
    assert "holds no corpus" in capsys.readouterr().out
