"""Rewrite msgspec's JSON schemas into the form that client generators support best."""

from typing import Any


def with_present_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """Mark as required the fields of an answer that are always present.

    These are the fields without a default and those whose default is not UNSET.
    """
    if schema.get("additionalProperties") is False or "properties" not in schema:
        return schema
    always = [
        name
        for name, of_field in schema["properties"].items()
        if name in schema.get("required", ()) or "default" in of_field
    ]
    properties = {
        name: {key: value for key, value in of_field.items() if key != "default"}
        for name, of_field in schema["properties"].items()
    }
    return {**schema, "properties": properties, "required": always}


def finished(schema: Any) -> Any:
    """Return a schema in the form that client generators support best.

    Patterns get JavaScript's anchors. The description and the examples of a nullable value move to the whole schema.
    """
    if isinstance(schema, list):
        return [finished(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: finished(value) for key, value in schema.items()}
    if isinstance(result.get("pattern"), str):
        result["pattern"] = result["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    options = result.get("anyOf", [])
    if len(options) == 2 and {"type": "null"} in options:
        value_schema = options[1] if options[0] == {"type": "null"} else options[0]
        if result.get("default", ...) is None:
            del result["default"]
        for field in ("description", "examples", "default"):
            if field in value_schema:
                result.setdefault(field, value_schema.pop(field))
    return result


def move_description(parameter: dict[str, Any]) -> None:
    """Move the description from the schema of a parameter to the parameter."""
    if "description" in parameter["schema"]:
        parameter["description"] = parameter["schema"].pop("description")
