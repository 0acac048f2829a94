"""Two LiveKit key pairs at once: each pair verifies, a mixed pair does not. livekit-api is the oracle."""

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit import api

from shared.errors import SettingsInvalid, WebhookRefused
from shared.infra.settings import load_settings
from shared.livekit.webhook import WebhookSigner, WebhookVerifier
from shared.models.key_pair import KeyPair
from tests.unit.test_deployment_files import COMPLETE

NOW = 1_795_000_000
NEW = KeyPair("APInew", "the new secret, long enough for HS256 as LiveKit asks")
OLD = KeyPair("APIold", "the old secret, long enough for HS256 as LiveKit asks")
SAME_KEY = KeyPair(NEW.api_key, OLD.api_secret)
BODY = b'{"event":"room_started","id":"EV_1"}'


class FrozenDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return datetime.datetime.fromtimestamp(NOW, tz)


def ours(token: str, previous: KeyPair | None) -> str | None:
    try:
        WebhookVerifier(*NEW, previous).verify(BODY, token, now_s=NOW)
    except WebhookRefused as refusal:
        return refusal.code
    return None


def oracle_accepts(token: str, pairs: list[KeyPair]) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jwt.api_jwt.datetime", FrozenDatetime)
        for pair in pairs:
            try:
                api.WebhookReceiver(api.TokenVerifier(*pair)).receive(BODY.decode(), token)
            except Exception:  # noqa: S112 - the oracle raises many classes; only its verdict matters
                continue
            return True
    return False


@given(
    key=st.sampled_from([NEW.api_key, OLD.api_key, "APIother"]),
    secret=st.sampled_from([NEW.api_secret, OLD.api_secret, "a secret of somebody else, and long enough as well"]),
    previous=st.sampled_from([None, OLD, SAME_KEY]),
)
def test_verdict_with_two_key_pairs_equals_that_of_livekit_api(key: str, secret: str, previous: KeyPair | None) -> None:
    token = WebhookSigner(key, secret).sign(BODY, now_s=NOW)
    assert (ours(token, previous) is None) == oracle_accepts(token, [NEW, *([previous] if previous else [])])


def test_previous_key_pair_is_valid_only_while_it_is_set() -> None:
    token = WebhookSigner(*OLD).sign(BODY, now_s=NOW)
    assert ours(token, OLD) is None
    assert ours(token, None) == "bad_signature"
    assert ours(WebhookSigner(OLD.api_key, NEW.api_secret).sign(BODY, now_s=NOW), OLD) == "wrong_api_key"


def test_empty_previous_secret_verifies_nothing() -> None:
    token = WebhookSigner(*NEW).sign(BODY, now_s=NOW)
    assert ours(token, KeyPair("APIold", "")) is None
    with pytest.raises(WebhookRefused, match="no LiveKit secret"):
        WebhookVerifier("", "", KeyPair("", "")).verify(BODY, token, now_s=NOW)


def test_previous_key_pair_is_read_from_the_settings() -> None:
    assert load_settings(COMPLETE).livekit_previous is None
    secret_alone = load_settings({**COMPLETE, "LIVEKIT_API_SECRET_PREVIOUS": "before"})
    assert secret_alone.livekit_previous == KeyPair(COMPLETE["LIVEKIT_API_KEY"], "before")
    both = {"LIVEKIT_API_KEY_PREVIOUS": "old", "LIVEKIT_API_SECRET_PREVIOUS": "before"}
    assert load_settings({**COMPLETE, **both}).livekit_previous == KeyPair("old", "before")
    assert "before" not in repr(load_settings({**COMPLETE, **both}).livekit_previous)
    with pytest.raises(SettingsInvalid, match="LIVEKIT_API_KEY_PREVIOUS is set without"):
        load_settings({**COMPLETE, "LIVEKIT_API_KEY_PREVIOUS": "old"})
