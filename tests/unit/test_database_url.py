"""DATABASE_URL: both drivers read the same values, and each known parameter does what the docs say."""

import getpass
import re
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from asyncpg import connect_utils
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from shared.errors import SettingsInvalid
from shared.infra.postgres import database_parameters
from shared.infra.postgres.database_url import Address, DatabaseUrl, parse_database_url, parts_of, with_defaults
from shared.infra.postgres.session import asyncpg_arguments, connect_timeout_s, session_settings
from tests.examples import examples

PAGE = Path(__file__).resolve().parents[2] / "docs" / "self-hosting.md"
ALL = string.ascii_letters + string.digits + string.punctuation + " é漢\U0001f600"
WITHOUT_COMMA = ALL.replace(",", "")  # a comma separates hosts, after decoding too

text = st.text(ALL, min_size=1, max_size=12)
names = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,3})?", fullmatch=True)
directories = st.text(WITHOUT_COMMA.replace("/", ""), min_size=1, max_size=12).map(lambda name: f"/{name}")
hosts = st.one_of(names, directories, st.sampled_from(["::1", "fe80::1", "127.0.0.1"]))
ports = st.integers(1, 65535)


def encoded(value: str) -> str:
    return quote(value, safe="")


def refusal(url: str) -> list[str]:
    try:
        parse_database_url(url)
    except SettingsInvalid as error:
        return error.lines
    return []


def asyncpgs(database: DatabaseUrl) -> list[tuple[object, object, object, object]]:
    """Return the address, user, password and database that asyncpg would use, for each host."""
    found = []
    for address in parts_of(database.dsn).addresses:
        arguments = asyncpg_arguments(parts_of(database.dsn), address, "relay")
        arguments.pop("timeout")
        blank = dict.fromkeys(
            ("ssl", "service", "servicefile", "direct_tls", "target_session_attrs", "krbsrvname", "gsslib")
        )
        parse = connect_utils._parse_connect_dsn_and_args  # type: ignore[attr-defined] # private: no public function returns this
        addresses, parameters = parse(**{**blank, **arguments})
        found += [(at, parameters.user, parameters.password, parameters.database) for at in addresses]
    return found


def libpqs(database: DatabaseUrl) -> list[tuple[object, object, object, object]]:
    parsed = {name: str(value) for name, value in conninfo_to_dict(database.dsn).items()}
    hosts = parsed["host"].split(",")
    ports = parsed.get("port", "5432").split(",")
    pairs = zip(hosts, [port or "5432" for port in (ports * len(hosts) if len(ports) == 1 else ports)], strict=True)
    user = parsed.get("user", getpass.getuser())
    return [
        (
            f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port)),
            user,
            parsed.get("password"),
            parsed.get("dbname", user),
        )
        for host, port in pairs
    ]


@law(max_examples=examples(400))
@given(st.lists(st.tuples(hosts, ports), min_size=1, max_size=3), text, text, text, st.booleans())
def test_both_drivers_read_the_same_hosts_and_credentials(
    pairs: list[tuple[str, int]], user: str, password: str, name: str, in_query: bool
) -> None:
    login = f"{encoded(user)}:{encoded(password)}@"
    if in_query:
        listed = encoded(",".join(host for host, _ in pairs))
        url = f"postgresql://{login}/{encoded(name)}?host={listed}&port={','.join(str(port) for _, port in pairs)}"
    else:
        bracketed = [f"[{host}]" if ":" in host and host[0] != "/" else encoded(host) for host, _ in pairs]
        listed = ",".join(f"{host}:{port}" for host, (_, port) in zip(bracketed, pairs, strict=True))
        url = f"postgresql://{login}{listed}/{encoded(name)}"
    database = parse_database_url(url)
    wanted = [(str(Address(*pair)) if pair[0].startswith("/") else pair, user, password, name) for pair in pairs]
    assert libpqs(database) == wanted
    assert asyncpgs(database) == wanted
    assert parse_database_url(database.dsn) == database  # parsing the result again changes nothing


@law(max_examples=examples(200))
@given(st.dictionaries(st.sampled_from(["application_name", "passfile", "sslcrl", "sslpassword"]), text))
def test_both_drivers_receive_every_parameter(parameters: dict[str, str]) -> None:
    query = "&".join(f"{name}={encoded(value)}" for name, value in parameters.items())
    database = parse_database_url(f"postgresql://u@h/d?{query}")
    parsed = conninfo_to_dict(database.dsn)
    assert {name: parsed[name] for name in parameters} == parameters
    assert parts_of(database.dsn).parameters == parameters


@law(max_examples=examples(300))
@given(st.text(ALL, max_size=40))
def test_arbitrary_url_is_parsed_or_refused_in_one_line(rest: str) -> None:
    lines = refusal(f"postgresql://{rest}")
    assert len(lines) <= 1
    assert all(line.startswith("DATABASE_URL ") for line in lines)
    if not lines:
        database = parse_database_url(f"postgresql://{rest}")
        assert asyncpgs(database) == libpqs(database)


def test_space_is_encoded_as_percent_20() -> None:
    assert parts_of(parse_database_url("postgresql://u@/db?host=/my%20dir").dsn).addresses == (
        Address("/my dir", 5432),
    )
    assert "%20" in parse_database_url("postgresql://u@/db?host=/my%20dir").dsn


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("postgresql://h1:5433,h2/db", [("h1", 5433), ("h2", 5432)]),
        ("postgresql://u@%2Fvar%2Frun%2Fpg:5433/db", [("/var/run/pg", 5433)]),
        ("postgresql:///db?host=h1,h2&port=5433", [("h1", 5433), ("h2", 5433)]),
        ("postgresql://[::1]:5433,[fe80::1%25eth0]/db", [("::1", 5433), ("fe80::1%eth0", 5432)]),
        ("postgres://u:a%40b:c@h/db", [("h", 5432)]),
    ],
)
def test_hosts_and_ports_are_parsed(url: str, addresses: list[tuple[str, int]]) -> None:
    database = parse_database_url(url)
    assert list(parts_of(database.dsn).addresses) == addresses
    assert libpqs(database) == asyncpgs(database)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:100%@h/db", "postgresql://h/db?host", "postgresql://h1,h2/db?port=1,2,3", "postgresql://h,/db",
        "postgresql://u:%00@h/db", "postgresql://u:%ff@h/db", "postgresql://h:0/db", "postgresql://@abstract/db?host=@x",
    ],
)  # fmt: skip
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsInvalid):
        parse_database_url(url)


def harmless_value(name: str) -> str:
    known = {
        "sslmode": "require", "sslaccept": "accept_invalid_certs", "target_session_attrs": "read-write", "options": "-c%20a=b",
        "load_balance_hosts": "random", "sslnegotiation": "postgres", "sslcert": "/c&sslkey=/k", "schema": "s",
        "channel_binding": "prefer", "gssencmode": "prefer", "sslcertmode": "allow", "search_path": "s", "ssl": "true",
    }  # fmt: skip
    return known.get(name, "5")


def treatment(name: str, value: str) -> str:
    url = f"postgresql://u@h/db?{name}={value}"
    if lines := refusal(url):
        return "refused" if name in lines[0] else "refused without its name"
    return "ignored" if name in parse_database_url(url).ignored else "honoured"


def table() -> dict[str, str]:
    section = PAGE.read_text(encoding="utf-8").split("## The parameters of DATABASE_URL\n")[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for first, second in re.findall(r"^\| (`.*?) \| (honoured|ignored|refused) \|", section, re.MULTILINE):
        found |= dict.fromkeys(re.findall(r"`([A-Za-z_]+)`", first), second)
    return found


def test_docs_list_every_parameter_with_its_treatment() -> None:
    known = (
        database_parameters.KEPT | database_parameters.TLS | database_parameters.WRITABLE | database_parameters.SESSION
        | database_parameters.IGNORED | database_parameters.REFUSED.keys() | {"schema", "options"}
    )  # fmt: skip
    wanted = {name: treatment(name, harmless_value(name)) for name in known}
    assert {name.lower(): what for name, what in table().items()} == {
        name.lower(): what for name, what in wanted.items()
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("channel_binding=require", "channel_binding"),
        ("channel_binding=require&sslmode=require", "channel_binding"),
        ("target_session_attrs=standby", "target_session_attrs"),
        ("target_session_attrs=prefer-standby", "target_session_attrs"),
        ("gssencmode=require", "gssencmode"),
        ("sslcertmode=require", "sslcertmode"),
        ("sslcert=/c", "sslkey"),
        ("sslmode=strict", "sslmode"),
        ("sslmod=verify-full", "sslmod"),
        ("sslmode=require&sslrootcert=system", "verify-full"),
        ("connect_timeout=soon", "connect_timeout"),
        ("options=-d%205", "options"),
    ],
)
def test_parameter_that_is_unsafe_to_ignore_is_refused_by_name(query: str, names: str) -> None:
    with pytest.raises(SettingsInvalid, match=names):
        parse_database_url(f"postgresql://u@h/db?{query}")


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("ssl=true", {"sslmode": "require"}),
        ("ssl=no-verify", {"sslmode": "require"}),
        ("sslmode=no-verify", {"sslmode": "require"}),
        ("ssl=true&sslmode=verify-ca", {"sslmode": "verify-ca"}),
        ("sslaccept=strict&sslcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        ("sslmode=require&sslaccept=accept_invalid_certs", {"sslmode": "require"}),
    ],
)
def test_tls_synonyms_map_to_sslmode(query: str, parameters: dict[str, str]) -> None:
    assert parts_of(parse_database_url(f"postgresql://u@h/db?{query}").dsn).parameters == parameters


@pytest.mark.parametrize("query", ["sslrootcert=system", "sslaccept=strict", "sslmode=verify-full&sslrootcert=system"])
def test_system_certificates_resolve_to_one_file_for_both_drivers(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_parameters, "system_certificates", lambda: "/etc/bundle.crt")
    database = parse_database_url(f"postgresql://u@h/db?{query}&channel_binding=require")
    assert parts_of(database.dsn).parameters == {"sslmode": "verify-full", "sslrootcert": "/etc/bundle.crt"}
    monkeypatch.setattr(database_parameters, "system_certificates", lambda: None)
    with pytest.raises(SettingsInvalid, match="ca-certificates"):
        parse_database_url(f"postgresql://u@h/db?{query}")


def test_url_parameters_become_session_settings() -> None:
    url = "postgresql://u@h/db?TimeZone=Europe/Berlin&options=-c%20lock_timeout=5s%20--work-mem=8MB%20-csearch_path=app"
    database = parse_database_url(url)
    assert database.schema == "app"
    assert session_settings(database) == {
        "default_transaction_isolation": "read committed",
        "timezone": "Europe/Berlin",
        "lock_timeout": "5s",
        "work_mem": "8MB",
        "search_path": '"app"',
    }


@pytest.mark.parametrize(("text", "seconds"), [(None, 5.0), ("15", 15.0), ("1", 2.0), ("0", None), ("-1", None)])
def test_connect_timeout_has_a_default_and_a_minimum(text: str | None, seconds: float | None) -> None:
    query = "" if text is None else f"?connect_timeout={text}"
    assert connect_timeout_s(parts_of(parse_database_url(f"postgresql://u@h/db{query}").dsn)) == seconds


def test_ignored_parameters_are_listed_once() -> None:
    url = "postgresql://u@h/db?pgbouncer=true&connection_limit=5&whatever=1&sslmode=require"
    assert parse_database_url(url).ignored == ("pgbouncer", "connection_limit", "whatever")


def test_defaults_do_not_override_given_parameters() -> None:
    assert with_defaults("postgresql://u@h/db", a="1 2") == "postgresql://u@h/db?a=1%202"
    assert with_defaults("postgresql://u@h/db?a=3", a="1") == "postgresql://u@h/db?a=3"
