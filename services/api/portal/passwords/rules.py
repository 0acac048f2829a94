"""Refuse new passwords that are easy to guess, without a network request.

A password is split into predictable chunks: a common word, a run on the keyboard, a sequence, a repetition, a part of the
person's own address. Each chunk counts as one character. The sum must be large enough.
"""

import re

MIN_LENGTH, MAX_LENGTH = 10, 256
# Characters that must be left when each predictable chunk counts as one.
_MIN_UNPREDICTABLE = 6
_EASY = "This is easy to guess. Use several words, or let a password manager choose."

# Words that are frequent in published lists of leaked passwords, and words of this product.
_COMMON = frozenset(
    [
        "abc",
        "access",
        "account",
        "admin",
        "administrator",
        "amanda",
        "andrew",
        "angel",
        "ashley",
        "babygirl",
        "bailey",
        "banana",
        "baseball",
        "basketball",
        "batman",
        "biteme",
        "butterfly",
        "buster",
        "changeme",
        "charlie",
        "cheese",
        "chelsea",
        "chocolate",
        "computer",
        "cookie",
        "daniel",
        "default",
        "demo",
        "donald",
        "dragon",
        "elephant",
        "evite",
        "flower",
        "football",
        "freedom",
        "gateway",
        "george",
        "ginger",
        "guest",
        "hannah",
        "harley",
        "hello",
        "hockey",
        "hunter",
        "iloveyou",
        "internet",
        "jennifer",
        "jessica",
        "jessie",
        "jordan",
        "joshua",
        "justin",
        "killer",
        "lakers",
        "letmein",
        "liverpool",
        "livekit",
        "login",
        "london",
        "love",
        "lovely",
        "loveme",
        "maggie",
        "master",
        "matrix",
        "matthew",
        "merlin",
        "michael",
        "michelle",
        "minecraft",
        "monkey",
        "mustang",
        "myspace",
        "naruto",
        "nicole",
        "ninja",
        "nothing",
        "orange",
        "passwd",
        "password",
        "passw",
        "pass",
        "pepper",
        "phoenix",
        "picture",
        "pokemon",
        "portal",
        "princess",
        "purple",
        "ranger",
        "relay",
        "robert",
        "root",
        "samsung",
        "secret",
        "server",
        "shadow",
        "silver",
        "soccer",
        "starwars",
        "summer",
        "sunshine",
        "superman",
        "superstar",
        "system",
        "taylor",
        "temp",
        "test",
        "thomas",
        "thunder",
        "tigger",
        "trustno",
        "unknown",
        "user",
        "welcome",
        "whatever",
        "william",
        "winter",
        "yankees",
        "yellow",
        "zaq",
        "spring",
        "autumn",
        "january",
        "february",
        "march",
        "april",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ]
)
_RUNS = (
    "abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "qwertzuiop", "asdfghjkl;'", "zxcvbnm,./", "yxcvbnm",
    "azertyuiop", "qsdfghjklm", "wxcvbn", "1q2w3e4r5t6y7u8i9o0p", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "qazwsxedcrfvtgbyhnujmikolp", "!@#$%^&*()", "!\"§$%&/()=", "q1w2e3r4t5y6u7i8o9p0", "147258369", "159753", "741852963",
)  # fmt: skip
_ALL_RUNS = tuple(run for forward in _RUNS for run in (forward, forward[::-1]))
_LEET = str.maketrans("@4831!0$57|", "aabeiiossti")
_MIN_RUN, _LONGEST_WORD = 3, max(map(len, _COMMON))
_SEPARATORS = re.compile(r"[^a-z0-9]+")


def objection_to(password: str, email: str) -> str | None:
    """Return what is wrong with a new password, as a sentence. None if it is good."""
    if len(password) < MIN_LENGTH:
        return f"Use at least {MIN_LENGTH} characters."
    if len(password) > MAX_LENGTH:
        return f"Use at most {MAX_LENGTH} characters."
    if len(set(password)) < 4:
        return "Use more than three different characters."
    return _EASY if unpredictable_length(password, email) < _MIN_UNPREDICTABLE else None


def unpredictable_length(password: str, email: str = "") -> int:
    """Return the length of a password when each predictable chunk counts as one character."""
    lowered = password.lower()
    letters = lowered.translate(_LEET)
    own = {part for part in _SEPARATORS.split(email.lower()) if len(part) >= _MIN_RUN}
    words = _COMMON | own
    longest = max([_LONGEST_WORD, *map(len, own)])
    at = count = 0
    while at < len(lowered):
        word = next(
            (size for size in range(min(longest, len(lowered) - at), _MIN_RUN - 1, -1)
             if letters[at : at + size] in words or lowered[at : at + size] in words),
            0,
        )  # fmt: skip
        at += max(1, word, _run_at(lowered, at), _repeat_at(lowered, at), _year_at(lowered, at))
        count += 1
    return count


def _run_at(text: str, at: int) -> int:
    """Return the length of the keyboard or alphabet run that starts here; 0 if below ``_MIN_RUN``."""
    size = 0
    if any(text[at : at + _MIN_RUN] in run for run in _ALL_RUNS) and len(text) - at >= _MIN_RUN:
        size = _MIN_RUN
        while at + size < len(text) and any(text[at : at + size + 1] in run for run in _ALL_RUNS):
            size += 1
    return size


def _repeat_at(text: str, at: int) -> int:
    """Return the length of the repetition of a character or an earlier piece that starts here.

    0 if it is shorter than 3.
    """
    same = len(text) - at - len(text[at:].lstrip(text[at]))
    size = 0
    while at + size < len(text) and text[at : at + size + 1] in text[:at]:
        size += 1
    return max(same, size) if max(same, size) >= _MIN_RUN else 0


def _year_at(text: str, at: int) -> int:
    return 4 if re.match(r"(?:19|20)\d\d", text[at : at + 4], re.ASCII) else 0
