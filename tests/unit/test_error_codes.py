"""The list of error codes equals docs/errors.md and contains every code that the sources raise."""

import ast
import re
from pathlib import Path

from services.api.http.problem_codes import CODES, error_classes
from shared import errors

ROOT = Path(__file__).resolve().parents[2]


def test_errors_page_lists_every_code_with_its_status_and_meaning() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \| (.*) \|$", page, re.MULTILINE)
    assert {code: (int(status), meaning) for status, code, meaning in rows} == {
        name: (status, code.meaning) for name, (status, code) in CODES.items()
    }
    assert len(rows) == len(CODES)


def test_every_code_in_the_sources_is_declared_by_its_error() -> None:
    """``place`` is the position of the code in the arguments of each error that has several codes."""
    place: dict[type[errors.RelayError], int] = {
        errors.InvalidRequest: 2,
        errors.Unauthenticated: 0,
        errors.WebhookRefused: 0,
        errors.RateLimited: 3,
    }
    by_name = {error.__name__: error for error in place}
    found: list[tuple[str, str, str]] = []
    for path in [*(ROOT / "services" / "api").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or (name := ast.unparse(node.func).rpartition(".")[2]) not in by_name:
                continue
            at = place[by_name[name]]
            given = [*node.args[at : at + 1], *(word.value for word in node.keywords if word.arg == "code")]
            found += [
                (name, str(value.value), f"{path.name}:{node.lineno}")
                for value in given
                if isinstance(value, ast.Constant)
            ]
    assert len(found) > 25
    assert [at for name, code, at in found if code not in {known.name for known in by_name[name].codes}] == []


def test_no_two_errors_share_a_code() -> None:
    names = [code.name for error in error_classes(errors.RelayError) for code in vars(error).get("codes", ())]
    assert sorted(names) == sorted(set(names))


def test_codes_are_well_formed_and_do_not_mention_litestar() -> None:
    for name, (_, code) in CODES.items():
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name)
        assert code.meaning.endswith("."), name
        assert "litestar" not in (code.example + code.meaning).lower()
