"""Our signing and verifying against livekit-api's, which is the oracle: same claims, same verdicts."""

import base64
import datetime
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit import api

from services.api.routes.tokens import Grants, TokenRequest, token_claims
from shared.errors import WebhookRefused
from shared.livekit.access_token import TokenSigner
from shared.livekit.webhook import WebhookSigner, WebhookVerifier

KEY, SECRET = "APIkey", "a secret long enough for HS256, as LiveKit asks"
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sources = st.lists(st.sampled_from(["camera", "microphone", "screen_share", "screen_share_audio"]), min_size=1)


@settings(max_examples=200, deadline=None)
@given(
    name=text,
    metadata=text,
    attributes=st.dictionaries(text, text, max_size=3),
    can=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    optional=st.tuples(st.none() | sources, st.none() | st.booleans(), st.none() | st.booleans()),
    ttl=st.integers(1, 21600),
)
def test_the_claims_are_those_of_livekit_api(
    name: str, metadata: str, attributes: dict[str, str], can: tuple[bool, bool, bool], optional: Any, ttl: int
) -> None:
    request = TokenRequest(
        room="lobby",
        identity="ada",
        name=name,
        metadata=metadata,
        attributes=attributes,
        grants=Grants(
            can_publish=can[0],
            can_subscribe=can[1],
            can_publish_data=can[2],
            can_publish_sources=optional[0],
            can_update_own_metadata=optional[1],
            hidden=optional[2],
        ),
    )
    now_s = int(time.time())
    ours = TokenSigner(KEY, SECRET).sign(token_claims(request, "p_x__lobby"), now_s=now_s, ttl_s=ttl)
    theirs = (
        api.AccessToken(KEY, SECRET)
        .with_identity("ada")
        .with_name(name)
        .with_metadata(metadata)
        .with_ttl(datetime.timedelta(seconds=ttl))
        .with_grants(
            api.VideoGrants(
                room_join=True,
                room="p_x__lobby",
                can_publish=can[0],
                can_subscribe=can[1],
                can_publish_data=can[2],
                can_publish_sources=optional[0],
                can_update_own_metadata=optional[1],
                hidden=optional[2],
            )
        )
    )
    if attributes:
        theirs = theirs.with_attributes(attributes)
    expected = jwt.decode(theirs.to_jwt(), SECRET, algorithms=["HS256"])
    mine = jwt.decode(ours, SECRET, algorithms=["HS256"])
    assert mine["exp"] - mine["nbf"] == expected.pop("exp") - expected.pop("nbf") == ttl
    assert {k: v for k, v in mine.items() if k not in ("exp", "nbf")} == expected
    api.TokenVerifier(KEY, SECRET).verify(ours)


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def verdicts(body: bytes, token: str, secret: str = SECRET) -> tuple[bool, bool]:
    try:
        WebhookVerifier(KEY, secret).verify(body, token, now_s=time.time())
        ours = True
    except WebhookRefused:
        ours = False
    try:
        api.WebhookReceiver(api.TokenVerifier(KEY, secret)).receive(body.decode(), token)
        theirs = True
    except Exception:  # the oracle raises many kinds; only its verdict matters
        theirs = False
    return ours, theirs


BODY = b'{"event":"room_started","id":"EV_1"}'


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_anywhere_gets_the_oracles_verdict(data: st.DataObject) -> None:
    token = WebhookSigner(KEY, SECRET).sign(BODY, now_s=int(time.time()))
    position = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.sampled_from("ABCabc019-_."))
    changed = token[:position] + character + token[position + 1 :]
    ours, theirs = verdicts(BODY, changed)
    assert ours == theirs
    assert ours == (changed == token)


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({}, True),
        ({"exp": -30}, True),
        ({"exp": -59}, True),
        ({"exp": -62}, False),
        ({"nbf": 55}, True),
        ({"nbf": 65}, False),
        ({"iss": "other"}, False),
        ({"sha256": ""}, False),
        ({"sha256": base64.b64encode(b"x" * 32).decode()}, False),
        ({"exp": None}, False),
    ],
)
def test_claims_at_the_edges(changes: dict[str, Any], valid: bool) -> None:
    import hashlib

    now = int(time.time())
    claims: dict[str, Any] = {"iss": KEY, "sha256": base64.b64encode(hashlib.sha256(BODY).digest()).decode()}
    claims |= {"nbf": now, "exp": now + 300}
    for name, value in changes.items():
        if value is None:
            del claims[name]
        else:
            claims[name] = now + value if name in ("exp", "nbf") else value
    assert verdicts(BODY, jwt.encode(claims, SECRET, algorithm="HS256")) == (valid, valid)


def test_algorithm_none_and_another_hash_are_refused() -> None:
    claims = {"iss": KEY, "sha256": "", "exp": int(time.time()) + 300}
    for header, signature in (({"alg": "none"}, ""), ({"alg": "HS512", "typ": "JWT"}, "AAAA")):
        assert verdicts(BODY, f"{b64(header)}.{b64(claims)}.{signature}") == (False, False)


def test_an_empty_secret_never_verifies() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        TokenSigner(KEY, "")
    import hashlib
    import hmac

    digest = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    signed = f"{b64({'alg': 'HS256'})}.{b64({'iss': KEY, 'sha256': digest, 'exp': int(time.time()) + 300})}"
    signature = base64.urlsafe_b64encode(hmac.digest(b"", signed.encode(), "sha256")).decode().rstrip("=")
    with pytest.raises(WebhookRefused):
        WebhookVerifier(KEY, "").verify(BODY, f"{signed}.{signature}", now_s=time.time())
