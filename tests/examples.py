"""How many examples Hypothesis tries for a property.

Each run of `make test` draws other examples, so the number of one run can be small: a third of the thorough one.
``RELAY_TEST_EXAMPLES=100`` tries all of them, in percent.
"""

from shared.infra.settings import environment

SHARE_VARIABLE = "RELAY_TEST_EXAMPLES"
_USUAL_PERCENT = 33
_LEAST = 10


def examples(thorough: int) -> int:
    """Return the share of ``thorough`` examples that this run tries, at least ten."""
    percent = int(environment().get(SHARE_VARIABLE, _USUAL_PERCENT))
    return max(min(thorough, _LEAST), thorough * percent // 100)
