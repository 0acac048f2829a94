"""Rewrites msgspec's JSON schemas into the form that client generators read best."""

from typing import Any


def with_present_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """Mark the fields of an answer that are always present: also those with a default other than UNSET."""
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
    """Write a schema as client generators read it best.

    Patterns get JavaScript's anchors. Descriptions and examples move from the one side of a nullable to the whole.
    """
    if isinstance(schema, list):
        return [finished(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    whole = {key: finished(value) for key, value in schema.items()}
    if isinstance(whole.get("pattern"), str):
        whole["pattern"] = whole["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    sides = whole.get("anyOf", [])
    if len(sides) == 2 and {"type": "null"} in sides:
        side = sides[1] if sides[0] == {"type": "null"} else sides[0]
        if whole.get("default", ...) is None:
            del whole["default"]
        for said in ("description", "examples", "default"):
            if said in side:
                whole.setdefault(said, side.pop(said))
    return whole


def move_description(parameter: dict[str, Any]) -> None:
    """Move the description from the schema of a parameter to the parameter."""
    if "description" in parameter["schema"]:
        parameter["description"] = parameter["schema"].pop("description")
