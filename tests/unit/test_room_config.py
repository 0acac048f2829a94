"""roomConfig has the fields of LiveKit's own messages, and its values are passed on unchanged."""

import msgspec
from google.protobuf.json_format import ParseDict
from livekit.protocol.room import RoomConfiguration

from services.api.tokens.room_config import AgentDispatch, RoomConfig


def names(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def test_room_config_has_exactly_the_fields_of_livekit() -> None:
    configuration = RoomConfiguration.DESCRIPTOR
    assert names(RoomConfig) == {field.json_name for field in configuration.fields}
    agent = configuration.fields_by_name["agents"].message_type
    assert agent is not None
    assert names(AgentDispatch) == {field.json_name for field in agent.fields}
    policy = agent.fields_by_name["restart_policy"].enum_type
    assert policy is not None
    policies = [value.name for value in policy.values]
    assert msgspec.json.schema(AgentDispatch)["$defs"]["AgentDispatch"]["properties"]["restartPolicy"]["anyOf"][0] == {
        "enum": sorted(policies)
    }


def test_room_config_omits_fields_that_are_not_given() -> None:
    given = {"maxParticipants": 4, "syncStreams": True, "agents": [{"agentName": "scribe", "attributes": {"a": "b"}}]}
    config = msgspec.convert(given, RoomConfig)
    assert msgspec.to_builtins(config) == given
    message = ParseDict(msgspec.to_builtins(config), RoomConfiguration())
    assert (message.max_participants, message.agents[0].agent_name) == (4, "scribe")
