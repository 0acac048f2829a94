"""Parse DATABASE_URL once for both drivers, asyncpg and libpq.

The grammar is libpq's. Only this module decides what a parameter means; docs/self-hosting.md has the table.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import quote, unquote

import msgspec

from shared.errors import SettingsInvalid
from shared.infra.postgres.database_parameters import (
    IGNORED,
    KEPT,
    REFUSED,
    REFUSED_PREFIXES,
    SESSION,
    TLS,
    WRITABLE,
    Parameters,
    tls_parameters,
)

DEFAULT_PORT: Final = 5432
_SCHEMES = ("postgresql://", "postgres://")
_EXAMPLE = "postgresql://user:password@host:5432/relay"
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_PORT = re.compile(r"[0-9]{1,5}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,62}")
_WORD = re.compile(r"(?:\\.|[^\s\\])+")
# Parameters that are parts of the address.
_PARTS = ("host", "port", "user", "password", "dbname")


class DatabaseUrl(msgspec.Struct, frozen=True, eq=False):
    """A database and how to connect to it. ``repr`` shows no part of it.

    ``dsn``: a URL that libpq understands, without the parts that only Relay reads. ``schema``: the schema of the tables (None:
    the server's default). ``session``: settings that each session starts with. ``ignored``: parameters without a meaning here.
    """

    dsn: str
    schema: str | None = None
    session: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and self._meaning() == other._meaning()

    def __hash__(self) -> int:
        return hash(self._meaning())

    def __repr__(self) -> str:
        return "DatabaseUrl(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []  # rich uses this instead of repr, and the one of msgspec shows every field

    def _meaning(self) -> tuple[object, ...]:
        return self.dsn, self.schema, self.session


class Address(NamedTuple):
    """A host name, an IP address or the directory of a Unix socket, with a port."""

    host: str
    port: int

    @property
    def is_socket(self) -> bool:
        """Whether the host is the directory of a Unix socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_socket:
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Parts(NamedTuple):
    """The parts of a ``dsn``.

    None means the default of the driver. ``parameters`` are libpq's, without those of the address.
    """

    addresses: tuple[Address, ...]
    user: str | None
    password: str | None
    database: str | None
    parameters: Mapping[str, str]


def parse_database_url(url: str) -> DatabaseUrl:
    """Parse a URL written for libpq, Prisma or another driver.

    Raises ``SettingsInvalid`` with all problems.
    """
    address, given, has_login = _split(url)
    problems: list[str] = []
    ignored: list[str] = []
    kept: Parameters = {}
    session: Parameters = {}
    schema = given.pop("schema", None)
    for name, value in given.items():
        known = name.lower()
        # An unknown name may be a part of a password that was not percent-encoded.
        shown = name if has_login and _PARAMETER_NAME.fullmatch(name) else "a parameter"
        refusal = REFUSED[name](value, given) if name in REFUSED else None
        if refusal is not None:
            problems.append(refusal)
        elif name in TLS:
            ignored += ["ssl"] if name == "ssl" and value.lower() in ("false", "0", "off") else []
        elif name in WRITABLE:
            pass
        elif name in KEPT or name in _PARTS:
            kept[name] = value
        elif known in SESSION:
            session[known] = value
        elif name == "options":
            session |= _options(value, problems)
        elif name in IGNORED:
            ignored.append(name)
        elif known.startswith(REFUSED_PREFIXES):
            problems.append(f"{shown} of its query is unknown, and its name says that it is about security. Remove it")
        else:
            ignored.append(shown)
    kept |= tls_parameters(given, problems)  # last, because the order of a URL's parameters has no meaning
    if (path := session.pop("search_path", None)) and schema is None:
        schema, *others = (part.strip().strip('"') for part in path.split(","))
        ignored += ["search_path after its first schema"] if others else []
    if schema is not None and not _SCHEMA.fullmatch(schema):
        problems.append("the schema must be a plain Postgres name (letters, digits, _)")
    if problems:
        raise SettingsInvalid([f"DATABASE_URL cannot be used: {'; '.join(problems)}"])
    address |= {name: kept.pop(name) for name in _PARTS if name in kept}
    if not address.get("host"):
        raise SettingsInvalid([f"DATABASE_URL has no host. Expected {_EXAMPLE}"])
    dsn = _joined(_addresses(address["host"], address.get("port", "")), address, kept)
    return DatabaseUrl(dsn, schema, tuple(session.items()), tuple(dict.fromkeys(ignored)))


@lru_cache(maxsize=16)
def parts_of(dsn: str) -> Parts:
    """Split a ``DatabaseUrl.dsn`` into its parts."""
    address, parameters, _ = _split(dsn)
    address |= {name: parameters.pop(name) for name in _PARTS if name in parameters}
    addresses = _addresses(address["host"], address.get("port", ""))
    return Parts(addresses, address.get("user"), address.get("password"), address.get("dbname") or None, parameters)


def with_defaults(dsn: str, **defaults: str) -> str:
    """Add the parameters that the dsn does not have."""
    given = parts_of(dsn).parameters
    added = "&".join(f"{name}={quote(value, safe='')}" for name, value in defaults.items() if name not in given)
    return f"{dsn}{'&' if '?' in dsn else '?'}{added}" if added else dsn


def _invalid(hint: str = "") -> NoReturn:
    raise SettingsInvalid([f"DATABASE_URL is not a valid URL{hint}. Expected something like {_EXAMPLE}"]) from None


def _split(url: str) -> tuple[Parameters, Parameters, bool]:
    """Return the decoded parts of the address and of the query, and whether there is a login before an @."""
    scheme = next((scheme for scheme in _SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise SettingsInvalid([f"DATABASE_URL must start with {' or '.join(_SCHEMES)}, like {_EXAMPLE}"])
    if _BAD_ESCAPE.search(url):
        _invalid(": a % must be written %25")
    rest, _, query = url.removeprefix(scheme).partition("?")
    authority, _, database = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    address: Parameters = {}
    if at and user:
        address["user"] = _decoded(user)
    if colon and password:
        address["password"] = _decoded(password)
    if database:
        address["dbname"] = _decoded(database)
    if hosts:
        pairs = [_host_and_port(text) for text in hosts.split(",")]
        address["host"] = ",".join(host for host, _ in pairs)
        if any(port for _, port in pairs):
            address["port"] = ",".join(port for _, port in pairs)
    parameters: Parameters = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            _invalid(": each parameter after the ? must be NAME=VALUE")
        parameters[_decoded(name)] = _decoded(value)
    return address, {name: value for name, value in parameters.items() if value or name == "schema"}, bool(at)


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        _invalid(": what is percent-encoded must be UTF-8")
    if "\0" in decoded:
        _invalid(": it may not contain %00")
    return decoded


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            _invalid()
        port = after[1:]
    else:
        host, _, port = text.partition(":")
    return _decoded(host), _decoded(port)


def _addresses(hosts: str, ports: str) -> tuple[Address, ...]:
    """Pair hosts and ports as libpq does: a single port is used for all hosts."""
    names, numbers = hosts.split(","), ports.split(",")
    if len(numbers) == 1:
        numbers *= len(names)
    if len(numbers) != len(names):
        raise SettingsInvalid(
            [f"DATABASE_URL names {len(names)} hosts and {len(numbers)} ports. Name one port for each"]
        )
    for name, number in zip(names, numbers, strict=True):
        if number and not (_PORT.fullmatch(number) and 0 < int(number) < 65536):
            _invalid(": the port must be from 1 to 65535, and : / ? @ in a password must be percent-encoded")
        if not name or name.startswith("@"):
            raise SettingsInvalid([f"DATABASE_URL has an empty or abstract host. Expected {_EXAMPLE}"])
    return tuple(Address(name, int(number or DEFAULT_PORT)) for name, number in zip(names, numbers, strict=True))


def _joined(addresses: tuple[Address, ...], address: Mapping[str, str], parameters: Mapping[str, str]) -> str:
    """Build the URL, with each value percent-encoded.

    Sockets go into the query, where libpq reads them too.
    """

    def encoded(text: str) -> str:
        return quote(text, safe="")

    login, hosts, query = "", "", dict(parameters)
    if any(one.is_socket for one in addresses):
        query = {
            "host": ",".join(one.host for one in addresses),
            **({"port": ",".join(str(one.port) for one in addresses)} if address.get("port") else {}),
            **query,
        }
    else:
        numbers = address.get("port", "").split(",")
        named = [number != "" for number in (numbers if len(numbers) == len(addresses) else numbers * len(addresses))]
        hosts = ",".join(
            (f"[{encoded(host)}]" if ":" in host else encoded(host)) + (f":{port}" if with_port else "")
            for (host, port), with_port in zip(addresses, named, strict=True)
        )
    if "user" in address:
        login = encoded(address["user"])
    if "password" in address:
        login += f":{encoded(address['password'])}"
    path = f"/{encoded(address['dbname'])}" if address.get("dbname") else ""
    text = "&".join(f"{name}={encoded(value)}" for name, value in query.items())
    return f"postgresql://{login}{'@' if login else ''}{hosts}{path}{'?' if text else ''}{text}"


def _options(text: str, problems: list[str]) -> Parameters:
    """Read the settings in libpq's ``options``: ``-c name=value`` and ``--name=value``."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in _WORD.findall(text)]
    found: Parameters = {}
    for setting in _settings_in(words):
        name, equals, value = setting.partition("=")
        if not equals or not _PARAMETER_NAME.fullmatch(name):
            problems.append("options may only hold `-c name=value` and `--name=value`")
            break
        found[name.lower()] = value
    return found


def _settings_in(words: Iterable[str]) -> Iterable[str]:
    follows = False
    for word in words:
        if follows:
            follows = False
            yield word
        elif word == "-c":
            follows = True
        elif word.startswith("-c"):
            yield word[2:]
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield f"{name.replace('-', '_')}{equals}{value}"
        else:
            yield ""
    if follows:
        yield ""
