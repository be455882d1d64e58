"""The command line: help, version, what is refused and how, where values come from."""
import subprocess

import pytest


def test_without_command_usage(run):
    result = run()
    assert result.returncode == 2 and result.stdout == ""
    assert "Usage: proa COMMAND" in result.stderr


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"]])
def test_help_lists_commands(run, arguments):
    result = run(*arguments)
    assert result.returncode == 0 and result.stderr == ""
    assert "  version " in result.stdout


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version(run, arguments):
    result = run(*arguments)
    assert result.returncode == 0
    name, version = result.stdout.split()
    assert name == "proa" and version[0].isdigit()


def commands(run):
    lines = run("help").stdout.splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ")]


def test_each_command_has_help(run):
    assert len(commands(run)) >= 2
    for command in commands(run):
        by_flag, by_command = run(command, "--help"), run("help", command)
        assert by_flag.returncode == by_command.returncode == 0
        assert by_flag.stdout == by_command.stdout
        assert f"Usage: proa {command}" in by_flag.stdout


@pytest.mark.parametrize("arguments, message", [
    (["srve-nothing-like-it"], "unknown command srve-nothing-like-it: `proa help` lists the known ones"),
    (["hlep"], "unknown command hlep: did you mean help?"),
    (["help", "hlep"], "unknown command hlep: did you mean help?"),
    (["help", "--fromat", "man"], "unknown flag --fromat: did you mean --format?"),
    (["help", "--format=html"], '--format is "html": give text, man or markdown'),
    (["help", "--format"], "--format needs a value: --format text|man|markdown"),
    (["version", "--format=man"], "proa version has no flag --format (it belongs to: help)"),
    (["version", "now"], 'unexpected argument "now": proa version takes flags only'),
])
def test_wrong_command_line_is_explained(run, arguments, message):
    result = run(*arguments)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"proa: {message}\n")


def test_both_spellings_of_a_value(run):
    assert run("help", "--format=man").stdout == run("help", "--format", "man").stdout


def test_environment_goes_before_default_and_after_command_line(run):
    assert run("help", PROA_FORMAT="markdown").stdout.startswith("# Flags")
    assert run("help", "--format=man", PROA_FORMAT="markdown").stdout.startswith(".TH PROA 1")
    assert run("help", PROA_FORMAT="").stdout == run("help").stdout
    wrong = run("help", PROA_FORMAT="html")
    assert wrong.returncode == 2
    assert wrong.stderr == 'proa: PROA_FORMAT (environment) is "html": give text, man or markdown\n'


def test_manual_and_flags_name_every_command(run):
    manual, flags = run("help", "--format=man").stdout, run("help", "--format=markdown").stdout
    for command in commands(run):
        assert f".SS proa {command}" in manual
        assert f"\n## proa {command}" in flags


def test_full_disk_is_an_error(proa):
    with open("/dev/full", "w") as full:
        result = subprocess.run([proa, "help", "--format=man"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and "No space left" in result.stderr
