"""The private part of asyncpg that Relay uses, as it is in asyncpg 0.32.

pyproject.toml bounds the version, and tests/unit/test_library_internals.py fails when the part moves.
"""

from typing import Any

import asyncpg


def socket_of(conn: "asyncpg.Connection[asyncpg.Record]") -> Any:
    """Return the connection's socket, for options that asyncpg cannot set (keep-alive).

    uvloop returns a wrapper.
    """
    return conn._transport.get_extra_info("socket")  # type: ignore[attr-defined] # private, so only this module uses it
