"""Every way to read a whole answer of LiveKit is bounded, whatever version of aiohttp is installed."""

import inspect
import re

import aiohttp
import pytest

from shared.livekit import bounded_answers
from shared.livekit.bounded_answers import BoundedAnswers

# What aiohttp 3.14 reads a whole answer with. A new name here needs a bounded version first.
READERS = {"read", "text", "json"}


def test_aiohttp_has_no_other_way_to_read_a_whole_answer() -> None:
    readers = {
        name
        for name, method in inspect.getmembers(aiohttp.ClientResponse, inspect.iscoroutinefunction)
        if not name.startswith("_") and "self._body" in inspect.getsource(method)
    }
    assert readers == READERS


@pytest.mark.parametrize("name", sorted(READERS))
def test_each_of_them_is_overridden_with_the_same_parameters(name: str) -> None:
    bounded = BoundedAnswers().response_class()
    assert name in vars(bounded)
    theirs = inspect.signature(getattr(aiohttp.ClientResponse, name)).parameters
    assert list(inspect.signature(getattr(bounded, name)).parameters) == list(theirs)


def test_a_session_lets_a_caller_choose_the_class_of_its_responses() -> None:
    assert "response_class" in inspect.signature(aiohttp.ClientSession.__init__).parameters


def test_nothing_private_of_aiohttp_is_used() -> None:
    assert re.findall(r"\.(_[a-z]\w*)", inspect.getsource(bounded_answers)) == []
