"""Parse and check the fields of a submitted form."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from litestar.exceptions import ClientException

MAX_FIELDS = 100
_EMAIL = re.compile(r"[^\s@<>\"'()\[\],;:\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
# Control characters and those that change the direction of text, because a name must not change the text next to it.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffd]")


class Form:
    """The values as sent, and ``errors`` as sentences by field name.

    Reading a field checks it and adds its error, so a page can show all errors at once.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.errors: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self._values.get(name, "")

    @property
    def is_valid(self) -> bool:
        return not self.errors

    def fail(self, name: str, sentence: str) -> None:
        self.errors.setdefault(name, sentence)

    def text(self, name: str, what: str, *, longest: int, required: bool = True) -> str:
        """Return a field that holds one line of visible text. ``what`` completes "Enter …"."""
        value = self[name].strip()
        if not value and required:
            self.fail(name, f"Enter {what}.")
        elif len(value) > longest:
            self.fail(name, f"Use at most {longest} characters.")
        elif _INVISIBLE.search(value):
            self.fail(name, "It contains an invisible character.")
        return value

    def email(self, name: str) -> str:
        value = self[name].strip()
        if not value:
            self.fail(name, "Enter your e-mail address.")
        elif len(value) > 254 or not _EMAIL.fullmatch(value) or _INVISIBLE.search(value):
            self.fail(name, "This is not an e-mail address.")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self[name]
        if value not in choices:
            self.fail(name, f"Choose one of {', '.join(choices)}.")
            return choices[0]
        return value


def parse_form(body: bytes) -> Form:
    """Parse an urlencoded body. The last value of a repeated field counts.

    NUL, which Postgres does not store, and bytes that are not UTF-8 become the replacement character. Raises
    ``ClientException``.
    """
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise ClientException("the form has too many fields") from None
    return Form({name: value.replace("\0", "\ufffd") for name, value in pairs})
