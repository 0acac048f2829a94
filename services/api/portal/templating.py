"""Configure Jinja for the portal: escape HTML, fail for missing values, format times and numbers."""

import re
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context
from markupsafe import Markup

from services.api.portal.static_files import StaticFiles
from shared.infra.clock import DAY_MS, HOUR_MS, MINUTE_MS, rfc3339

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
TEMPLATES = Path(__file__).parent / "templates"


def create_templates(static: StaticFiles) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        # Snippets are plain text. The page that shows them escapes them.
        autoescape=select_autoescape(disabled_extensions=("txt",), default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["static"] = static.url
    environment.filters.update(
        number=number, fixed=fixed, minutes=minutes, duration=duration, ago=ago, moment=moment, day=day, plural=plural
    )
    environment.filters.update(browser=browser, sentence=sentence, label_of=label_of, instant=instant, date=date)
    return environment


def number(value: float) -> str:
    """``12,345``, with one decimal if the number has one."""
    text = f"{value:,.1f}"
    return text.removesuffix(".0")


def fixed(value: float) -> str:
    """Return a number for columns: always one decimal, so that the points are aligned; ``0`` for zero."""
    return f"{value:,.1f}" if value else "0"


def minutes(ms: int) -> str:
    """Milliseconds as minutes with one decimal: ``1,234.5``."""
    return f"{ms / MINUTE_MS:,.1f}"


def duration(ms: int) -> str:
    """``42 s``, ``7 min 5 s``, ``3 h 20 min``, ``2 d 4 h``."""
    seconds = max(ms, 0) // 1000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 room``, ``2 rooms``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _ms(at: datetime | int) -> int:
    return at if isinstance(at, int) else int(at.timestamp() * 1000)


def _time(at_ms: int, text: str) -> Markup:
    exact = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(rfc3339(at_ms), exact, text)


@pass_context
def ago(context: Context, at: datetime | int) -> Markup:
    """``5 min ago`` or ``in 3 d``, with the exact time as its title."""
    at_ms = _ms(at)
    passed = int(context["now_ms"]) - at_ms
    size = abs(passed)
    if size < 10_000:
        return _time(at_ms, "just now" if passed >= 0 else "in a moment")
    if size < MINUTE_MS:
        text = f"{size // 1000} s"
    elif size < HOUR_MS:
        text = f"{size // MINUTE_MS} min"
    elif size < DAY_MS:
        text = f"{size // HOUR_MS} h"
    elif size < 60 * DAY_MS:
        text = f"{size // DAY_MS} d"
    else:
        return day(at_ms)
    return _time(at_ms, f"{text} ago" if passed > 0 else f"in {text}")


def moment(at: datetime | int) -> Markup:
    """``24 Nov 2026, 20:51:07``, UTC."""
    at_ms = _ms(at)
    return _time(at_ms, datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%-d %b %Y, %H:%M:%S"))


def day(at: datetime | int) -> Markup:
    """``24 Nov 2026``, UTC."""
    at_ms = _ms(at)
    return _time(at_ms, datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%-d %b %Y"))


_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Mac OS", "macOS"), ("Windows", "Windows"),
            ("Linux", "Linux"))  # fmt: skip


def browser(user_agent: str) -> str:
    """``Firefox on Linux``. An unknown user agent is shown as sent, shortened."""
    name = next((name for mark, name in _BROWSERS if mark in user_agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    if name is None:
        return user_agent[:60] or "unknown"
    return f"{name} on {system}" if system else name


def sentence(action: str) -> str:
    """``Key revoked`` for ``key_revoked``."""
    return action[:1].upper() + action[1:].replace("_", " ")


def label_of(option: tuple[str, tuple[object, str]]) -> tuple[str, str]:
    """(value, label) of an entry like ``{"7d": (timedelta(days=7), "7 days")}``, for a select."""
    return option[0], option[1][1]


def instant(at: str) -> int:
    """Unix milliseconds of a time as the API writes it."""
    return int(datetime.fromisoformat(at).timestamp() * 1000)


def date(given: str) -> str:
    """Return the day of a time, for a date field. Empty if it is not a time."""
    return given[:10] if _DATE.match(given) else ""
