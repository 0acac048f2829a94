"""Translate failed calls to LiveKit's Twirp API into Relay's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
from google.protobuf.message import DecodeError
from livekit.api.twirp_client import ServerError, ServerErrorCode

from shared.errors import (
    LiveKitAnswerTooLarge,
    LiveKitCredentialsRefused,
    LiveKitFailed,
    LiveKitRefusedInput,
    LiveKitRefusedState,
    LiveKitServiceAbsent,
    LiveKitTimedOut,
    LiveKitUnreachable,
)
from shared.livekit.bounded_answers import AnswerTooLarge

# LiveKit's messages that help the client, with the error text that Relay answers (it holds no name or token) and the field.
_KNOWN_MESSAGES: Final = {
    "metadata size exceeds": ("`metadata` is larger than this LiveKit allows.", "metadata"),
    "attribute size exceeds": ("`attributes` are larger than this LiveKit allows.", "attributes"),
    "name length exceeds": ("`name` is longer than this LiveKit allows.", "name"),
    "remote unmute not enabled": (
        "This LiveKit forbids unmuting others. Set `room.enable_remote_unmute` in its configuration to allow it.",
        None,
    ),
}


@contextmanager
def relay_errors(missing: Exception | None) -> Iterator[None]:
    """Raise failures of a call to LiveKit as Relay's errors, without the original error.

    ``missing``: the error to raise if LiveKit answers that what the call names does not exist.
    """
    try:
        yield
    except ServerError as error:
        raise _error_of_answer(error, missing) from None
    except AnswerTooLarge:
        raise LiveKitAnswerTooLarge from None
    # A failed connection attempt means unreachable, not a slow answer, although aiohttp calls both a time-out.
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectionError) as error:
        if isinstance(error, aiohttp.SocketTimeoutError):
            raise LiveKitTimedOut from None
        raise LiveKitUnreachable from None
    except TimeoutError:
        raise LiveKitTimedOut from None
    except aiohttp.ClientError:
        raise LiveKitUnreachable from None
    except (DecodeError, AttributeError):
        # Not protobuf, or JSON that is not an object: the server at this address is not LiveKit.
        raise LiveKitFailed(200, "malformed") from None


def _error_of_answer(error: ServerError, missing: Exception | None) -> Exception:
    """Return Relay's error for an error answer of LiveKit."""
    # Both come from JSON of the server, so they may be of any type.
    code, message = str(error.code), str(error.message)
    if error.status in (401, 403):
        return LiveKitCredentialsRefused()
    if code == ServerErrorCode.NOT_FOUND and missing is not None:
        return missing
    if code == ServerErrorCode.DEADLINE_EXCEEDED:
        return LiveKitTimedOut()
    if code == ServerErrorCode.INTERNAL and "not connected (redis required)" in message:
        return LiveKitServiceAbsent(error.status, code)
    known = next((text for part, text in _KNOWN_MESSAGES.items() if part in message), None)
    if code in (ServerErrorCode.INVALID_ARGUMENT, ServerErrorCode.OUT_OF_RANGE):
        return LiveKitRefusedInput(*(known or ("LiveKit refuses this request as invalid.",)))
    if code in (ServerErrorCode.FAILED_PRECONDITION, ServerErrorCode.ALREADY_EXISTS, ServerErrorCode.ABORTED):
        return LiveKitRefusedState(known[0] if known else "LiveKit cannot do this in its present state.")
    return LiveKitFailed(error.status, code)
