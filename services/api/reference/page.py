"""Render the page of `/docs`: the OpenAPI document as HTML, without scripts or external content.

Decision: docs/decisions/0012-reference-page-rendered-here.md.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
_LIMITS = {
    "minimum": "≥ {}", "maximum": "≤ {}", "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "minItems": "at least {}", "maxItems": "at most {}", "pattern": "{}", "format": "{}", "default": "default {}",
}  # fmt: skip


class Field(NamedTuple):
    """A line of a table. ``name`` is a dotted path, ``choices`` are the allowed values."""

    name: str
    type: str
    required: bool
    limits: list[str]
    choices: list[str]
    description: str


class DocumentedAnswer(NamedTuple):
    status: str
    description: str
    fields: list[Field]
    examples: list[tuple[str, str]]
    headers: list[tuple[str, str]]


class Operation(NamedTuple):
    id: str
    method: str
    path: str
    summary: str
    description: str
    secured: bool
    parameters: list[tuple[str, Field]]
    body: list[Field]
    request: str
    answers: list[DocumentedAnswer]
    errors: list[tuple[str, str, str]]


def render_reference(document: dict[str, Any]) -> str:
    """Render the whole page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = _coded
    groups = [(tag, list(_operations(document, tag["name"]))) for tag in document.get("tags", ())]
    return environment.get_template("reference.html").render(
        info=document["info"],
        server=document["servers"][0]["url"],
        groups=[(tag, operations) for tag, operations in groups if operations],
        problem=list(_fields(_schema(document, "ProblemDetails"), document)),
    )


def _coded(text: str) -> list[tuple[bool, str]]:
    """Split a text with backticks into (is code, piece), for the template to escape and mark up."""
    return [(number % 2 == 1, piece) for number, piece in enumerate(text.split("`")) if piece]


def _operations(document: dict[str, Any], tag: str) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if tag in operation["tags"]:
                yield _operation(document, path, method.upper(), operation)


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Operation:
    secured = {"secretKey": []} in operation.get("security", [])
    contents: dict[str, dict[str, Any]] = operation.get("requestBody", {}).get("content", {})
    media_type = next(iter(contents), "")
    body = contents.get(media_type, {})
    successes = {status: answer for status, answer in operation["responses"].items() if not _is_error(answer)}
    return Operation(
        id=operation["operationId"],
        method=method,
        path=path,
        summary=operation["summary"],
        description=operation.get("description", ""),
        secured=secured,
        parameters=[
            (each["in"], _field(each["name"], each["schema"], each["required"], document, each.get("description", "")))
            for each in operation.get("parameters", ())
        ],
        body=list(_fields(body["schema"], document)) if body else [],
        request=_curl(document, path, method, operation, media_type, body.get("example")),
        answers=[_answer(document, status, answer) for status, answer in successes.items()],
        errors=[
            (status, code, example["summary"])
            for status, answer in operation["responses"].items()
            if _is_error(answer)
            for code, example in answer["content"]["application/problem+json"]["examples"].items()
        ],
    )


def _is_error(answer: dict[str, Any]) -> bool:
    return "application/problem+json" in answer.get("content", {})


def _answer(document: dict[str, Any], status: str, answer: dict[str, Any]) -> DocumentedAnswer:
    contents = answer.get("content", {})
    schema = contents.get("application/json", {}).get("schema")
    examples = []
    for media_type, content in contents.items():
        example = content.get("example", ... if media_type == "application/json" else "")
        if example is ...:
            example = example_of(content["schema"], document)
        examples.append((media_type, example if isinstance(example, str) else _pretty(example)))
    return DocumentedAnswer(
        status=status,
        description=answer["description"],
        fields=[] if schema is None else list(_fields(schema, document)),
        examples=examples,
        headers=[(name, header["description"]) for name, header in answer.get("headers", {}).items()],
    )


def _curl(
    document: dict[str, Any], path: str, method: str, operation: dict[str, Any], media_type: str, example: Any
) -> str:
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            value = str(example_of(parameter["schema"], document))
            path = path.replace("{" + parameter["name"] + "}", value)
    lines = [f"curl {document['servers'][0]['url']}{path}"]
    if method not in ("GET", "POST") or (method == "POST" and example is None):
        lines.append(f"-X {method}")
    if {"secretKey": []} in operation.get("security", []):
        lines.append('-H "Authorization: Bearer $KEY"')
    if example is not None:
        lines += [f"-H 'Content-Type: {media_type}'", f"-d '{json.dumps(example, ensure_ascii=False)}'"]
    return " \\\n  ".join(lines)


def _schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    schema: dict[str, Any] = document["components"]["schemas"][name]
    return schema


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Resolve a reference, and drop the null side of a nullable."""
    if "$ref" in schema:
        return {
            **_schema(document, schema["$ref"].rpartition("/")[2]),
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    sides = [side for side in schema.get("anyOf", ()) if side != {"type": "null"}]
    if len(sides) == 1:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**_resolved(sides[0], document), **rest}
    return schema


def _fields(schema: dict[str, Any], document: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[Field]:
    """Yield the properties of an object and of the objects in it, down to the fourth level."""
    whole = _resolved(schema, document)
    required = whole.get("required", ())
    for name, of_field in whole.get("properties", {}).items():
        yield _field(f"{prefix}{name}", of_field, name in required, document)
        inner = _resolved(of_field, document)
        if depth < 3:
            items = inner.get("items")
            if items is not None:
                yield from _fields(items, document, f"{prefix}{name}[].", depth + 1)
            yield from _fields(inner, document, f"{prefix}{name}.", depth + 1)


def _field(name: str, schema: dict[str, Any], required: bool, document: dict[str, Any], description: str = "") -> Field:
    whole = _resolved(schema, document)
    kind = str(whole.get("type", "any"))
    if kind == "array":
        kind = f"array of {_resolved(whole['items'], document).get('type', 'any')}"
    limits = [
        text.format(json.dumps(whole[key], ensure_ascii=False) if key == "default" else whole[key])
        for key, text in _LIMITS.items()
        if key in whole
    ]
    choices = whole.get("enum") or _resolved(whole.get("items", {}), document).get("enum") or ()
    text = description or schema.get("description") or whole.get("description", "")
    return Field(name, kind, required, limits, [str(choice) for choice in choices], text.replace("``", "`"))


def example_of(schema: dict[str, Any], document: dict[str, Any], depth: int = 0) -> Any:
    """Return a value that the schema allows, from the examples in the schema."""
    whole = _resolved(schema, document)
    if "example" in whole or "examples" in whole:
        return whole.get("example", next(iter(whole.get("examples", ())), None))
    if "const" in whole or "enum" in whole:
        return whole.get("const", next(iter(whole.get("enum", ())), None))
    match whole.get("type"):
        case "object":
            properties = whole.get("properties", {})
            return (
                {name: example_of(each, document, depth + 1) for name, each in properties.items()} if depth < 6 else {}
            )
        case "array":
            return [example_of(whole["items"], document, depth + 1)]
        case "integer":
            return max(whole.get("minimum", 1), 1)
        case "number":
            return 96.5
        case "boolean":
            return whole.get("default", False)
        case "string":
            return "…" if "pattern" not in whole else "abc"
    return None


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
