"""Every way to read a whole response of LiveKit is bounded, with any version of aiohttp."""

import inspect
import re

import aiohttp
import pytest

from shared.livekit import bounded_answers
from shared.livekit.bounded_answers import BoundedAnswers

# The methods of aiohttp 3.14 that read a whole response. A new name here needs a bounded version first.
READERS = {"read", "text", "json"}


def test_aiohttp_reads_whole_responses_only_by_the_known_methods() -> None:
    readers = {
        name
        for name, method in inspect.getmembers(aiohttp.ClientResponse, inspect.iscoroutinefunction)
        if not name.startswith("_") and "self._body" in inspect.getsource(method)
    }
    assert readers == READERS


@pytest.mark.parametrize("name", sorted(READERS))
def test_each_read_method_is_overridden_with_the_same_parameters(name: str) -> None:
    bounded = BoundedAnswers().response_class()
    assert name in vars(bounded)
    theirs = inspect.signature(getattr(aiohttp.ClientResponse, name)).parameters
    assert list(inspect.signature(getattr(bounded, name)).parameters) == list(theirs)


def test_aiohttp_client_session_accepts_a_response_class() -> None:
    assert "response_class" in inspect.signature(aiohttp.ClientSession.__init__).parameters


def test_bounded_answers_use_no_private_attribute_of_aiohttp() -> None:
    assert re.findall(r"\.(_[a-z]\w*)", inspect.getsource(bounded_answers)) == []
