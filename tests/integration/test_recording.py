"""Webhooks of a real livekit-server v1.13.5, byte for byte, folded in any order.

The result is compared with a separate computation.
"""

import base64
import json
import random
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shared.errors import WebhookRefused
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.postgres.pool import Pool
from shared.ledger.fold import fold_batch
from shared.livekit.webhook import WebhookVerifier
from shared.models.received import Received
from shared.models.scope import Scope
from shared.projects import queries as project_queries
from tests.e2e.livekit_server import API_KEY, API_SECRET
from tests.stored_usage import usage_by_day

_FILE = Path(__file__).parents[1] / "fixtures" / "livekit-v1.13.5" / "webhooks.json"
_MODES = {"p": "live", "t": "test"}


class RecordedWebhook(NamedTuple):
    """One recorded webhook."""

    authorization: str
    body: bytes
    received_ms: int

    @property
    def event(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content


@pytest.fixture(scope="module")
def deliveries() -> list[RecordedWebhook]:
    return [
        RecordedWebhook(one["headers"]["authorization"], base64.b64decode(one["bodyBase64"]), one["receivedMs"])
        for one in json.loads(_FILE.read_bytes())
    ]


def scope_of(event: dict[str, Any]) -> Scope:
    prefix, project_id, _ = event["room"]["name"].split("_", 2)
    return Scope(project_id, _MODES[prefix])


def computed(deliveries: list[RecordedWebhook]) -> dict[Scope, tuple[int, int]]:
    """Compute participant and video milliseconds of each project and mode from the JSON.

    Every participant in the recording has joined, left and published at most one camera.
    """
    start: dict[str, int] = {}
    end: dict[str, int] = {}
    scopes: dict[str, Scope] = {}
    on: dict[str, int] = {}
    off: dict[str, int] = {}
    for event in (delivery.event for delivery in deliveries):
        if "participant" not in event:
            continue
        sid, at_ms = event["participant"]["sid"], int(event["createdAt"]) * 1000
        scopes[sid] = scope_of(event)
        match event["event"], event.get("track", {}).get("type"):
            case "participant_joined", _:
                start[sid] = int(event["participant"]["joinedAtMs"])
            case "participant_left", _:
                end[sid] = at_ms
            case "track_published", "VIDEO":
                assert sid not in on
                on[sid] = at_ms
            case "track_unpublished", "VIDEO":
                off[sid] = at_ms
            case other, _:
                assert other in ("track_published", "track_unpublished")
    assert start.keys() == end.keys() == scopes.keys()
    sums: defaultdict[Scope, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for sid, scope in scopes.items():
        video = min(off.get(sid, end[sid]), end[sid]) - max(on[sid], start[sid]) if sid in on else 0
        participant_ms, video_ms = sums[scope]
        sums[scope] = participant_ms + end[sid] - start[sid], video_ms + video
    return dict(sums)


def test_the_recording_covers_all_events_modes_and_projects(deliveries: list[RecordedWebhook]) -> None:
    events = [delivery.event for delivery in deliveries]
    assert {event["event"] for event in events} == {
        "room_started",
        "room_finished",
        "participant_joined",
        "participant_left",
        "track_published",
        "track_unpublished",
    }
    assert {mode for _, mode in computed(deliveries)} == {"live", "test"}
    assert len({project_id for project_id, _ in computed(deliveries)}) == 2
    assert all(participant_ms > 0 for participant_ms, _ in computed(deliveries).values())
    assert sum(video_ms > 0 for _, video_ms in computed(deliveries).values()) == 2


def test_recorded_signatures_verify_only_with_their_body_and_secret(deliveries: list[RecordedWebhook]) -> None:
    verifier, other = WebhookVerifier(API_KEY, API_SECRET), WebhookVerifier(API_KEY, API_SECRET + "x")
    for delivery in deliveries:
        now_s = delivery.received_ms / 1000
        verifier.verify(delivery.body, delivery.authorization, now_s=now_s)
        with pytest.raises(WebhookRefused):
            verifier.verify(delivery.body + b" ", delivery.authorization, now_s=now_s)
        with pytest.raises(WebhookRefused):
            other.verify(delivery.body, delivery.authorization, now_s=now_s)


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
async def test_recorded_webhooks_fold_to_the_same_usage_in_any_order(
    pool: Pool, deliveries: list[RecordedWebhook], seed: int | None
) -> None:
    """Seed None: as received. Otherwise shuffled, with duplicates, in batches of any size."""
    expected = computed(deliveries)
    batch = [Received(delivery.received_ms, delivery.body) for delivery in deliveries]
    size = len(batch)
    if seed is not None:
        rng = random.Random(seed)
        batch += rng.choices(batch, k=len(batch))
        rng.shuffle(batch)
        size = rng.randint(1, 9)
    folded = known = 0
    async with pool.acquire() as conn:
        for project_id in sorted({scope.project_id for scope in expected}):
            await project_queries.insert_project(conn, project_id, "recorded", datetime.now(UTC))
        for first in range(0, len(batch), size):
            result = await fold_batch(conn, 0, batch[first : first + size])
            assert (result.set_aside, result.unattributed) == (0, 0)
            folded, known = folded + result.folded, known + result.known
        assert (folded, known) == (len(deliveries), len(batch) - len(deliveries))
        from_ms = floor_to(min(delivery.received_ms for delivery in deliveries) - DAY_MS, DAY_MS)
        for scope, (participant_ms, video_ms) in expected.items():
            days = await usage_by_day(conn, scope, from_ms, from_ms + 4 * DAY_MS)
            assert sum(day.participant_ms for day in days.values()) == participant_ms
            assert sum(day.video_ms for day in days.values()) == video_ms
