"""The command line of `relay`: help, suggestions, shared options, completion and arbitrary arguments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.cli.main import main
from services.cli.options import Invocation
from services.cli.tree import Deferred, relay
from shared.infra.settings import inherited_environment
from shared.infra.version import VERSION
from tests.cli_reference import PAGE, leaves, page
from tests.examples import examples

ROOT = Path(__file__).resolve().parents[2]
LEAVES = dict(leaves())
GROUPS = sorted({name.rsplit(" ", 1)[0] for name in LEAVES} - {"relay"})
Call = tuple[Invocation, dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Record the options of each command instead of running it."""
    made: list[Call] = []

    def note(**options: Any) -> int:
        made.append((click.get_current_context().obj, options))
        return 0

    for command in LEAVES.values():
        monkeypatch.setattr(command, "callback", note)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"relay {VERSION}\n", "")


@pytest.mark.parametrize("name", ["relay", *GROUPS])
def test_group_without_a_command_prints_its_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, err = run(capsys, *name.split()[1:])
    assert (code, err) == (2, "")
    assert out.startswith(f"Usage: {name} ")
    assert "Commands:" in out
    assert run(capsys, *name.split()[1:], "--help") == (0, out, "")


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_prints_its_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    for flag in ("-h", "--help"):
        code, out, err = run(capsys, *name.split()[1:], flag)
        assert (code, err) == (0, "")
        assert out.startswith(f"Usage: {name}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["project"], "there is no command 'project'; did you mean projects?"),
        (["projects", "lst"], "there is no command 'lst'; did you mean list?"),
        (["keys", "create", "--projet", "x"], "there is no option --projet; did you mean --project?"),
        (["--jsn", "keys", "list"], "there is no option --jsn; did you mean --json?"),
        (["doctor", "--verbose"], "there is no option --verbose"),
        (["zzzz"], "there is no command 'zzzz'"),
        (["up", "--port", "0"], "--port: must be from 1 to 65535"),
        (["up", "--port", "3000.5"], "--port: '3000.5' is not a whole number"),
        (["up", "--port"], "option '--port' requires an argument"),
        (["--data-dir", "", "migrate"], "--data-dir: must not be empty"),
        (["simulate", "--rate", "nan"], "--rate: must be from 0 to 1000000"),
        (["simulate", "--rate", "fast"], "--rate: 'fast' is not a number"),
        (["keys", "create"], "--project is required"),
        (["keys", "create", "--project", "x", "--mode", "prod"], "--mode: 'prod' is not one of 'live', 'test'"),
        (
            ["keys", "create", "--project", "x", "--expires", "1.5d"],
            "'1.5d' is not a length of time; write it like 90d",
        ),
        (["projects", "create"], "NAME is required"),
        (["projects", "create", os.fsdecode(b"\xff")], "NAME: is not valid UTF-8 text"),
        (["events", "dismiss", "0"], "ID...: must be from 1 to 9223372036854775807"),
        (["usage", "verify", "--from", "June"], "--from: 'June' is not a day like 2026-06-18"),
        (["usage", "verify", "--to", "9999-12-31"], "--to: must be from 1970-01-01 to 2100-01-01"),
        (["migrate", "now"], "got unexpected extra argument (now)"),
        (["completion", "csh"], "'csh' is not one of 'bash', 'zsh', 'fish'"),
        (["--json", "up"], "`relay up` has no option --json"),
        (["--data-dir", "x", "api"], "`relay api` has no option --data-dir"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_mistake(
    capsys: pytest.CaptureFixture[str], calls: list[Call], arguments: list[str], said: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert f"relay: {said}" in err or f": {said}" in err
    assert "--help` for its usage" in err
    assert (out == "") == ("--json" not in arguments)
    assert not calls


def test_replay_needs_exactly_one_selection_of_events(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--all", "7"], ["7", "--reason", "unreadable"]):
        code, _, err = run(capsys, "events", "replay", *arguments)
        assert (code, "give --all or --reason" in err) == (2, True)
    assert run(capsys, "usage", "verify", "--from", "2026-06-02", "--to", "2026-06-01")[0] == 2


@pytest.mark.parametrize(
    "name", [name for name, command in LEAVES.items() if "json" in {p.name for p in command.params}]
)
@pytest.mark.parametrize("before", [True, False])
def test_shared_options_work_before_and_after_the_command(
    capsys: pytest.CaptureFixture[str], calls: list[Call], name: str, before: bool
) -> None:
    shared, path = ["--json", "--data-dir", "some where"], name.split()[1:]
    required = {"create": ["x"], "erase": ["--project", "x", "--identity", "y"], "rename": ["x", "y"]}
    rest = required.get(path[-1], [])
    if path == ["keys", "create"]:
        rest = ["--project", "x"]
    if path[-1] in ("archive", "restore", "revoke", "rotate", "password", "dismiss"):
        rest = ["7"]
    arguments = [*shared, *path, *rest] if before else [*path, *rest, *shared]
    assert run(capsys, *arguments) == (0, "", "")
    assert calls[0][0] == Invocation(Path("some where"), json=True)


def test_option_after_the_command_overrides_the_one_before_it(
    capsys: pytest.CaptureFixture[str], calls: list[Call]
) -> None:
    assert run(capsys, "--data-dir", "a", "keys", "list", "--data-dir", "b")[0] == 0
    assert calls[0][0].data_dir == Path("b")


@pytest.mark.parametrize(
    "arguments",
    [["--json"], ["--json", "keys"], ["keys", "list", "--json", "--nope"], ["--json", "projects", "list"], ["nope", "--json"],
     ["usage", "verify", "--json"]],
)  # fmt: skip
def test_json_option_prints_an_error_as_one_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@127.0.0.1:1/none" if "verify" in arguments else "")
    monkeypatch.setenv("RELAY_DATA_DIR", str(tmp_path))
    code, out, err = run(capsys, *arguments)
    error = json.loads(out)["error"]
    assert error["exitCode"] == code != 0
    assert err == "".join(f"relay: {line}\n" for line in error["message"].splitlines())


def words() -> st.SearchStrategy[list[str]]:
    names = {part for name in LEAVES for part in name.split()[1:]}
    flags = {flag for command in LEAVES.values() for param in command.params for flag in param.opts if flag[0] == "-"}
    values = [
        "",
        "-",
        "--",
        "0",
        "-1",
        "9" * 5000,
        "1e999",
        "nan",
        "٣",
        "90d",
        "live",
        "2026-06-18",
        "-W25",
        "\U0001f600",
    ]
    any_bytes = st.binary(max_size=6).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
    known = st.sampled_from(sorted(names | flags | set(values)))
    valid_start = st.sampled_from([name.split()[1:] for name in LEAVES] + [[]])
    rest = st.lists(st.one_of(known, any_bytes, st.builds("{}={}".format, known, known)), max_size=5)
    return st.builds(lambda start, more: start + more, valid_start, rest)


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=words())
@example(arguments=["up", "--port", "9" * 5000])
@example(arguments=["projects", "create", os.fsdecode(b"\xff\xfe")])
@example(arguments=["--data-dir"])
@example(arguments=["usage", "verify", "--to", "9999-12-31"])
def test_arbitrary_arguments_never_cause_a_traceback(
    capsys: pytest.CaptureFixture[str], calls: list[Call], arguments: list[str]
) -> None:
    """Either a command would run, or help is printed, or the exit code is 2 with a message."""
    calls.clear()
    code, out, err = run(capsys, *arguments)
    assert "Traceback" not in out + err
    if code == 0:
        assert len(calls) == 1 or out.startswith(("Usage: relay", f"relay {VERSION}"))
    else:
        assert code == 2
        assert not calls
        assert err.startswith("relay: ") or out.startswith("Usage: relay")


def test_help_and_usage_errors_import_no_slow_module() -> None:
    """Start-up stays short: only the module of the called command is loaded, without the drivers."""
    slow = (
        "asyncpg",
        "psycopg",
        "msgspec",
        "rich",
        "httpx",
        "redis",
        "asyncio",
        "services.local",
        "shared.infra.settings",
    )
    script = (
        "import sys\nfrom services.cli.main import main\nmain(sys.argv[1:])\n"
        f"sys.exit(repr([m for m in {slow!r} if m in sys.modules]))"
    )
    for arguments in (["--help"], ["--version"], ["nope"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr.splitlines()[-1] == "[]"


def test_deferred_summary_equals_that_of_the_loaded_command() -> None:
    for deferred in relay.commands.values():
        assert isinstance(deferred, Deferred)
        loaded = deferred.load()
        assert (loaded.name, loaded.short_help) == (deferred.name, deferred.short_help)


def test_every_option_and_command_has_help() -> None:
    for name, command in LEAVES.items():
        assert command.help, name
        for param in command.params:
            assert not isinstance(param, click.Option) or param.help, (name, param.name)


def test_cli_reference_page_matches_the_commands() -> None:
    """If this fails after a change of a command, run `python -m tests.cli_reference` and read the diff."""
    assert PAGE.read_text(encoding="utf-8") == page()


def complete(shell: str, *typed: str) -> list[str]:
    """Return what ``shell`` is offered after these words. The last word is incomplete."""
    line = " ".join(["relay", *typed])
    words = {"COMP_WORDS": line, "COMP_CWORD": typed[-1] if shell == "fish" else str(len(typed))}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main"],
        cwd=ROOT,
        env=inherited_environment({"_RELAY_COMPLETE": f"{shell}_complete", **words}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [(["pro"], "projects"), (["projects", "arch"], "archive"), (["simulate", "--clo"], "--close-at-once"),
     (["keys", "create", "--mode", "l"], "live"), (["--js"], "--json")],
)  # fmt: skip
def test_completion_offers_commands_and_options(typed: list[str], offered: str) -> None:
    assert f"plain,{offered}" in complete("bash", *typed)
    assert any(line.split("\t")[0] == f"plain,{offered}" for line in complete("fish", *typed))
    assert offered in complete("zsh", *typed)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_has_valid_shell_syntax(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert f"_RELAY_COMPLETE={shell}_complete" in out
    program = shutil.which(shell)
    if program is not None:  # every machine that runs the tests has bash
        done = subprocess.run([program, "-n"], input=out, text=True, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
