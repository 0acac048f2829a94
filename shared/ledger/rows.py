"""Compute the stored rows of sessions, egresses and runs of ingresses from their states.

A row is a tuple: the derived columns in the order of ``DERIVED`` (shared/ledger/queries), then the encoded state.
"""

import msgspec

from shared.ledger.queries import media, sessions
from shared.metering.run_usage import interval_of_run
from shared.metering.state import MediaRun, Room, Session, latest
from shared.metering.usage import Bill, bill_of, kind_of, last_sign_of, on_off

_encode = msgspec.json.Encoder().encode


def session_row(session: Session, bill: Bill) -> tuple[object, ...]:
    """Return the row of a session. ``bill``: its bill."""
    interval = bill.interval
    if interval is None:
        start_ms = end_ms = ended_by = video_ms = screen_ms = video = screen = last_sign_ms = None
    else:
        start_ms, end_ms, ended_by = interval
        if end_ms is None:
            video_ms = screen_ms = None
            # The times at which an open session switched its video and its screen share on and off.
            video, screen = on_off(session, start_ms)
            last_sign_ms = last_sign_of(session, start_ms)
        else:
            hours = bill.usage.values() if not bill.whole else (bill.total(),)
            video_ms, screen_ms = sum(hour.video_ms for hour in hours), sum(hour.screen_share_ms for hour in hours)
            video = screen = last_sign_ms = None
    return (
        session.sid,
        session.project_id,
        session.mode,
        session.room,
        session.room_sid,
        session.identity,
        kind_of(session),
        start_ms,
        end_ms,
        ended_by,
        video_ms,
        screen_ms,
        video,
        screen,
        last_sign_ms,
        _encode(session),
    )


def session_columns(session: Session, room: Room | None) -> dict[str, object]:
    """Return the correct derived columns of a session. Arrays have the form of Postgres (``{1,2}``)."""
    row = session_row(session, bill_of(session, room))
    return dict(zip(sessions.DERIVED, map(sessions.array_literal, row[:-1]), strict=True))


def run_row(run: MediaRun) -> tuple[object, ...]:
    """Return the row of an egress or a run of an ingress."""
    interval = interval_of_run(run) if run.project_id is not None else None
    return (
        run.id,
        run.meter,
        run.type,
        run.project_id,
        run.mode,
        run.room,
        interval.start_ms if interval else None,
        interval.end_ms if interval else None,
        interval.inferred if interval else False,
        latest(interval.start_ms, run.sighted_ms) if interval and interval.end_ms is None else None,
        _encode(run),
    )


def run_columns(run: MediaRun) -> dict[str, object]:
    """Return the correct derived columns of an egress or a run of an ingress."""
    return dict(zip(media.DERIVED, run_row(run)[:-1], strict=True))
