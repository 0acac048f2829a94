"""The list of codes: in docs/errors.md word by word, and complete against what the sources raise."""

import ast
import re
from pathlib import Path

from services.api.problem_codes import CODES

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_lists_every_code_with_its_status_and_meaning() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \| (.*) \|$", page, re.MULTILINE)
    assert {code: (int(status), meaning) for status, code, meaning in rows} == {
        name: (code.status, code.meaning) for name, code in CODES.items()
    }
    assert len(rows) == len(CODES)


def test_every_code_in_the_sources_is_listed() -> None:
    """As far as a code is written where it is raised: ``place`` says which argument it is."""
    place = {"Problem": 1, "InvalidRequest": 2, "Unauthenticated": 0, "WebhookRefused": 0}
    found: dict[str, str] = {}
    for path in [*(ROOT / "services" / "api").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]:
        if "portal" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or (name := ast.unparse(node.func).rpartition(".")[2]) not in place:
                continue
            given = [
                *node.args[place[name] : place[name] + 1],
                *(word.value for word in node.keywords if word.arg == "code"),
            ]
            found |= {
                str(value.value): f"{path.name}:{node.lineno}"
                for value in given
                if isinstance(value, ast.Constant) and isinstance(value.value, str)
            }
    assert len(found) > 30
    assert {code: where for code, where in found.items() if code not in CODES} == {}


def test_examples_name_no_person_and_no_internals() -> None:
    for name, code in CODES.items():
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name)
        assert code.meaning.endswith("."), name
        assert "litestar" not in (code.detail + code.meaning).lower()
