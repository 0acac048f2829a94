"""Relay signs and verifies like livekit-api: same claims, same verdicts.

livekit-api is the oracle.
"""

import base64
import datetime
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jwt.types import Options
from livekit import api

from services.api.tokens.schemas import Grants, TokenRequest
from services.api.tokens.service import token_claims
from shared.errors import WebhookRefused
from shared.livekit.access_token import TokenSigner
from shared.livekit.webhook import WebhookSigner, WebhookVerifier
from tests.examples import examples

KEY, SECRET = "APIkey", "a secret long enough for HS256, as LiveKit asks"
OTHER_SECRET = "another secret, and long enough for HS256 as well"
NOW = 1_795_000_000
# A token with a lifetime of one second may expire before a busy machine decodes it.
WHATEVER_THE_TIME: Options = {"verify_exp": False, "verify_nbf": False}
laws = settings(max_examples=examples(250))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sources = st.lists(st.sampled_from(["camera", "microphone", "screen_share", "screen_share_audio"]), min_size=1)


@laws
@given(
    name=text,
    metadata=text,
    attributes=st.dictionaries(text, text, max_size=3),
    can=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    optional=st.tuples(st.none() | sources, st.none() | st.booleans(), st.none() | st.booleans()),
    ttl=st.integers(1, 21600),
)
def test_token_claims_equal_those_of_livekit_api(
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
    # livekit-api reads the clock twice, so a second may pass between nbf and exp.
    expected = jwt.decode(theirs.to_jwt(), SECRET, algorithms=["HS256"], options=WHATEVER_THE_TIME)
    lifetime_s = expected["exp"] - expected["nbf"]
    assert lifetime_s - ttl in (0, 1)
    claims = token_claims(request, "p_x__lobby")
    ours = TokenSigner(KEY, SECRET).sign(claims, now_s=expected["nbf"], ttl_s=lifetime_s)
    assert jwt.decode(ours, SECRET, algorithms=["HS256"], options=WHATEVER_THE_TIME) == expected
    assert jwt.get_unverified_header(ours) == {"alg": "HS256", "typ": "JWT"}
    # The leeway of a minute covers a slow machine between signing and verifying.
    verified = api.TokenVerifier(KEY, SECRET).verify(ours)
    assert (verified.identity, verified.name, verified.metadata, verified.attributes) == (
        "ada",
        name,
        metadata,
        attributes,
    )


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def digest_of(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def signed(claims: Any, secret: str = SECRET, alg: str = "HS256") -> str:
    """Build a token by hand. The signature is HMAC-SHA256 even if the header says otherwise."""
    content = f"{b64({'alg': alg, 'typ': 'JWT'})}.{b64(claims)}"
    return f"{content}.{b64(hmac.digest(secret.encode(), content.encode(), 'sha256'))}"


class SigningDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return datetime.datetime.fromtimestamp(NOW, tz)


def refusal(body: bytes, token: str, secret: str = SECRET, now_s: float = NOW) -> str | None:
    try:
        WebhookVerifier(KEY, secret).verify(body, token, now_s=now_s)
    except WebhookRefused as error:
        return error.code
    return None


def verdicts(body: bytes, token: str, secret: str = SECRET) -> tuple[bool, bool]:
    """Return (Relay accepts, livekit-api accepts) at the instant ``NOW``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jwt.api_jwt.datetime", SigningDatetime)
        try:
            api.WebhookReceiver(api.TokenVerifier(KEY, secret)).receive(body.decode(), token)
            theirs = True
        except Exception:  # the oracle raises many classes; only its verdict matters
            theirs = False
    return refusal(body, token, secret) is None, theirs


BODY = b'{"event":"room_started","id":"EV_1"}'
OTHER_BODY = BODY.replace(b"EV_1", b"EV_2")
RIGHT: dict[str, Any] = {"iss": KEY, "sha256": digest_of(BODY), "nbf": NOW, "exp": NOW + 300}
offsets = st.integers(-62, 62) | st.integers(-400, 400)


@laws
@given(
    nbf=st.none() | offsets,
    exp=st.none() | offsets,
    iss=st.sampled_from([KEY, KEY, KEY, "", "other", None]),
    sha256=st.sampled_from([digest_of(BODY)] * 3 + [digest_of(OTHER_BODY), "", "!", None]),
    secret=st.sampled_from([SECRET, SECRET, SECRET, OTHER_SECRET]),
    alg=st.sampled_from(["HS256", "HS256", "HS256", "HS512", "none", "RS256"]),
    body=st.sampled_from([BODY, BODY, BODY, OTHER_BODY]),
)
@example(nbf=0, exp=300, iss=KEY, sha256=digest_of(BODY), secret=SECRET, alg="HS256", body=BODY)
@example(nbf=0, exp=300, iss=KEY, sha256=digest_of(BODY), secret=SECRET, alg="none", body=BODY)
def test_verdict_on_any_token_equals_that_of_livekit_api(
    nbf: int | None, exp: int | None, iss: str | None, sha256: str | None, secret: str, alg: str, body: bytes
) -> None:
    given_claims = {"nbf": nbf, "exp": exp, "iss": iss, "sha256": sha256}
    claims = {k: NOW + v if isinstance(v, int) else v for k, v in given_claims.items() if v is not None}
    ours, theirs = verdicts(body, signed(claims, secret, alg))
    assert ours == theirs


@laws
@given(st.data())
def test_verdict_on_a_changed_token_equals_that_of_livekit_api(data: st.DataObject) -> None:
    token = WebhookSigner(KEY, SECRET).sign(BODY, now_s=NOW)
    position = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.sampled_from("ABCabc019-_.+/=! "))
    changed = token[:position] + character + token[position + 1 :]
    ours, theirs = verdicts(BODY, changed)
    assert ours == theirs
    assert ours == (changed == token)


@laws
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_signature_is_valid_for_its_own_body_only(body: bytes, other: bytes) -> None:
    token = WebhookSigner(KEY, SECRET).sign(body, now_s=NOW)
    assert refusal(body, token) is None
    assert refusal(other, token) == (None if other == body else "body_mismatch")
    assert refusal(body, token, OTHER_SECRET) == "bad_signature"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"exp": NOW - 59}, None),
        ({"exp": NOW - 60}, "expired"),
        ({"nbf": NOW + 60}, None),
        ({"nbf": NOW + 61}, "not_yet_valid"),
        ({"iss": "other"}, "wrong_api_key"),
        ({"iss": None}, "wrong_api_key"),
        ({"sha256": ""}, "body_mismatch"),
        ({"sha256": None}, "body_mismatch"),
        ({"sha256": digest_of(OTHER_BODY)}, "body_mismatch"),
        ({"sha256": 1}, "malformed_signature"),
        ({"exp": None}, "malformed_signature"),
    ],
)
def test_claims_at_their_limits_match_livekit_api(changes: dict[str, Any], reason: str | None) -> None:
    """LiveKit allows a leeway of 60 s. It ends with the 60th second."""
    token = signed({k: v for k, v in {**RIGHT, **changes}.items() if v is not None})
    assert refusal(BODY, token) == reason
    assert verdicts(BODY, token) == (reason is None, reason is None)


def test_expiry_leeway_ends_after_exactly_60_seconds() -> None:
    token = signed({**RIGHT, "exp": NOW - 60})
    assert refusal(BODY, token, now_s=NOW - 0.001) is None
    assert refusal(BODY, token, now_s=NOW) == "expired"


@pytest.mark.parametrize("claims", [[], "text", 1, None])
def test_claims_that_are_not_an_object_are_refused(claims: Any) -> None:
    assert refusal(BODY, signed(claims)) == "malformed_signature"


def test_algorithms_other_than_hs256_are_refused() -> None:
    for header, signature in (({"alg": "none"}, ""), ({"alg": "HS512", "typ": "JWT"}, "AAAA")):
        assert verdicts(BODY, f"{b64(header)}.{b64(RIGHT)}.{signature}") == (False, False)
    assert verdicts(BODY, jwt.encode(RIGHT, SECRET * 2, algorithm="HS512")) == (False, False)
    assert refusal(BODY, signed(RIGHT, alg="none")) == "malformed_signature"


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [(None, "missing_signature"), ("", "missing_signature"), ("a.b", "malformed_signature"), ("é.é.é", "bad_signature"),
     ("日.本.語", "bad_signature"), ("x" * 5000, "malformed_signature")],
)  # fmt: skip
def test_authorization_that_is_not_a_valid_token_is_refused(authorization: str | None, reason: str) -> None:
    with pytest.raises(WebhookRefused) as refused:
        WebhookVerifier(KEY, SECRET).verify(BODY, authorization, now_s=NOW)
    assert refused.value.code == reason


def test_empty_secret_neither_signs_nor_verifies() -> None:
    for key, secret in ((KEY, ""), ("", SECRET)):
        with pytest.raises(ValueError, match="must not be empty"):
            TokenSigner(key, secret)
    assert refusal(BODY, signed(RIGHT, ""), "") == "no_secret"
    assert verdicts(BODY, signed(RIGHT, ""), "") == (False, False)
