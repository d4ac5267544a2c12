"""Schedulers pick where a response is audited: chunk starts, none closer than a chunk apart."""

from collections.abc import Callable

Eligible = Callable[[int], bool]  # may a chunk start at token t?
