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
