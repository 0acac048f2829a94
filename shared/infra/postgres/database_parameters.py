"""The query parameters of DATABASE_URL: which are used, ignored with a warning, or refused by name."""

import os.path
import ssl
from collections.abc import Callable, Mapping
from typing import Final

Parameters = dict[str, str]
Refusal = Callable[[str, Mapping[str, str]], str | None]

SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_WRITABLE = ("any", "read-write", "primary")
# The files in which Linux distributions, the BSDs and macOS keep the certificates that the system trusts.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

# Passed to both drivers under libpq's names. The function `tls_parameters` handles TLS.
KEPT: Final = frozenset({
    "application_name", "connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "load_balance_hosts", "passfile", "sslcrl", "sslnegotiation", "sslpassword", "ssl_max_protocol_version",
    "ssl_min_protocol_version", "tcp_user_timeout",
})  # fmt: skip
# Read together, by `tls_parameters`.
TLS: Final = frozenset({"ssl", "sslaccept", "sslcert", "sslkey", "sslmode", "sslrootcert"})
# Says which servers are acceptable. Relay always needs a writable one, so every allowed value means the same.
WRITABLE: Final = frozenset({"target_session_attrs"})
# Settings of a session, in lower case, as pgx and asyncpg read them from a URL. `options` may name any other.
SESSION: Final = frozenset({
    "idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout", "role", "search_path",
    "statement_timeout", "timezone", "work_mem",
})  # fmt: skip
# Parameters of other drivers that have no meaning for Relay.
IGNORED: Final = frozenset({
    # libpq
    "channel_binding", "client_encoding", "fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "krbsrvname",
    "max_protocol_version", "min_protocol_version", "sslcertmode", "sslcompression", "sslsni",
    # Prisma
    "connection_limit", "max_connection_lifetime", "max_idle_connection_lifetime", "pgbouncer", "pool_timeout",
    "single_use_connections", "socket_timeout", "statement_cache_size",
    # node-postgres
    "uselibpqcompat",
})  # fmt: skip
# An unknown name with one of these prefixes asks for protection. Ignoring it would remove the protection silently.
REFUSED_PREFIXES: Final = ("ssl", "tls", "gss", "krb", "require", "auth", "verify", "channel")


def _always(advice: str) -> Refusal:
    return lambda _value, _given: advice


def _number(name: str) -> Refusal:
    def check(value: str, _given: Mapping[str, str]) -> str | None:
        digits = value.removeprefix("-")
        return None if digits.isascii() and digits.isdigit() and len(digits) < 10 else f"{name} must be a whole number"

    return check


def _one_of(name: str, *values: str, advice: str = "") -> Refusal:
    def check(value: str, _given: Mapping[str, str]) -> str | None:
        return None if value in values else f"{name} must be one of {', '.join(values)}{advice}"

    return check


def _channel_binding(value: str, given: Mapping[str, str]) -> str | None:
    if value != "require" or "verify-full" in tls_parameters(given, []).values():
        return None
    return (
        "channel_binding=require is not supported: write sslmode=verify-full&sslrootcert=system"
        " (or a file of certificates) instead, which also checks the identity of the server"
    )


def _gssencmode(value: str, _given: Mapping[str, str]) -> str | None:
    return "gssencmode=require is not supported: encrypt with sslmode=verify-full" if value == "require" else None


def _sslcertmode(value: str, _given: Mapping[str, str]) -> str | None:
    return "sslcertmode=require is not supported: remove it; sslcert and sslkey work" if value == "require" else None


def _sslcert(_value: str, given: Mapping[str, str]) -> str | None:
    if "sslkey" in given or "sslaccept" in given:
        return None
    return "sslcert needs sslkey. If it is the certificate of the server or its CA, write sslrootcert instead"


# Each function returns why a value is refused, or None. Some parameters are refused only for certain values.
REFUSED: Final[Mapping[str, Refusal]] = {
    "channel_binding": _channel_binding,
    "connect_timeout": _number("connect_timeout"),
    "currentSchema": _always("currentSchema is the name of another driver: write schema=NAME"),
    "gssencmode": _gssencmode,
    "hostaddr": _always("hostaddr is not supported: write the address as the host"),
    "keepalives": _number("keepalives"),
    "keepalives_count": _number("keepalives_count"),
    "keepalives_idle": _number("keepalives_idle"),
    "keepalives_interval": _number("keepalives_interval"),
    "load_balance_hosts": _one_of("load_balance_hosts", "disable", "random"),
    "replication": _always("replication is not supported: Relay needs an ordinary connection"),
    "require_auth": _always("require_auth is not supported: restrict the login in the server's pg_hba.conf"),
    "requirepeer": _always("requirepeer is not supported: protect the socket by the rights of its directory"),
    "service": _always("service is not supported: write the content of the service file into the URL"),
    "servicefile": _always("servicefile is not supported: write the content of the service file into the URL"),
    "sslaccept": _one_of("sslaccept", "strict", "accept_invalid_certs"),
    "sslcert": _sslcert,
    "sslcertmode": _sslcertmode,
    "sslcrldir": _always("sslcrldir is not supported: write the list of revoked certificates as a file in sslcrl"),
    "sslidentity": _always("sslidentity (PKCS #12) is not supported: write certificate and key as PEM in sslcert and sslkey"),
    "sslkeylogfile": _always("sslkeylogfile is not supported: it would write the keys of the connection to a file"),
    "sslmode": _one_of("sslmode", *SSL_MODES, "no-verify"),
    "sslnegotiation": _one_of("sslnegotiation", "postgres", "direct"),
    "target_session_attrs": _one_of("target_session_attrs", *_WRITABLE, advice=": Relay writes"),
    "tcp_user_timeout": _number("tcp_user_timeout"),
}  # fmt: skip


def tls_parameters(given: Mapping[str, str], problems: list[str]) -> Parameters:
    """Translate the parameters ``TLS`` to those of libpq, and append problems to ``problems``."""
    mode, root, certificate = given.get("sslmode"), given.get("sslrootcert"), given.get("sslcert")
    if mode == "no-verify" or (mode is None and given.get("ssl", "").lower() in ("true", "1", "on", "no-verify")):
        mode = "require"
    if given.get("sslaccept") == "strict":
        mode = "verify-full"
        if certificate and "sslkey" not in given:  # Prisma's name for the certificate of the server
            root, certificate = root or certificate, None
        root = root or "system"
    if root == "system":
        if mode not in (None, "verify-full"):
            problems.append(f"sslrootcert=system needs sslmode=verify-full, not {mode}")
        mode, root = "verify-full", system_certificates()
        if root is None:
            problems.append("sslrootcert=system found no certificates here: install ca-certificates, or name a file")
    found = {"sslmode": mode, "sslrootcert": root, "sslcert": certificate, "sslkey": given.get("sslkey")}
    return {name: value for name, value in found.items() if value}


def system_certificates() -> str | None:
    """Return a file with all certificates that the system trusts.

    Both drivers read files but find them differently.
    """
    known = ssl.get_default_verify_paths().cafile
    return next((path for path in (known, *_SYSTEM_BUNDLES) if path and os.path.isfile(path)), None)
