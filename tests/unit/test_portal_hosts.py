"""The hosts that the portal's pages answer to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.portal.hosts import AllowedHosts

HOSTS = AllowedHosts("https://relay.example.com:8443", ["second.example.org"])
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
PORT = st.just("") | st.integers(1, 65535).map(":{}".format)


@given(
    st.sampled_from(
        ["relay.example.com", "RELAY.Example.com.", "second.example.org", "localhost", "api", "relay.localhost"]
    )
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map("[{}]".format),
    PORT,
)
def test_configured_names_internal_names_and_addresses_are_allowed(name: str, port: str) -> None:
    assert HOSTS.allow(name + port)


@given(st.lists(LABEL, min_size=1, max_size=4), st.sampled_from(["com", "example", "org", "dev"]), PORT)
def test_other_public_names_are_refused(labels: list[str], top: str, port: str) -> None:
    name = ".".join([*labels, top])
    assert HOSTS.allow(name + port) == (name in ("relay.example.com", "second.example.org"))


@pytest.mark.parametrize(
    "host", [None, "", ":80", "localhost:x", "localhost@evil.example", "evil.example/localhost", "evil.example#localhost",
             "evil.example?localhost", "127.0.0.1.evil.example", "localhost.evil.example", "relay.example.com.evil.example",
             "[::1", "127.0.0.1, evil.example", "localhost evil.example"],
)  # fmt: skip
def test_malformed_hosts_are_refused(host: str | None) -> None:
    assert not HOSTS.allow(host)
