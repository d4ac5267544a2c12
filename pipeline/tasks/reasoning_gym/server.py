"""The process that has reasoning-gym imported: it makes entries, and scores answers to them."""

import functools
import importlib.metadata
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.tasks.reasoning_gym.answers import MARK

MEMORY = 2 << 30  # bytes that the process may take above its imports
TUPLE, DICT = "__tuple__", "__dict__"


def serve() -> None:
    """The process: a line of JSON for a request, one for its reply, until stdin closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # scorers print
    import reasoning_gym  # about 2 s: it imports every dataset

    @functools.lru_cache(maxsize=512)
    def made(name: str, settings: str, copy: str) -> Any:
        return reasoning_gym.create_dataset(name, **json.loads(settings))

    with open("/proc/self/statm", encoding="utf-8") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    deeds: dict[str, Callable[..., Any]]
    deeds = {"entry": _entry, "look": _looked_through, "score": _scores}
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        do, seconds, name, settings, request = json.loads(line)
        _limit_cpu(seconds)
        try:
            dataset = made(name, json.dumps(settings), request.pop("copy"))
        except Exception as error:  # noqa: BLE001 - any kind, for settings it refuses
            reply = json.dumps({"created": False, "error": _said(error)})
        else:
            try:
                reply = json.dumps(deeds[do](dataset, **request))
            except Exception as error:  # noqa: BLE001 - any kind, from its generator
                reply = json.dumps({"error": _said(error)})
        print(reply, file=replies, flush=True)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _entry(dataset: Any, index: int) -> dict[str, Any]:
    """Entry `index`, which must not depend on the random numbers that all the process shares."""
    first, state = _drawn(dataset, index, 1)
    if state != _seeded(1) and _drawn(dataset, index, 2)[0] != first:
        raise ValueError(f"problem {index} is drawn from random numbers without a seed")
    return {"entry": {**first, MARK: importlib.metadata.version("reasoning-gym")}}


def _drawn(dataset: Any, index: int, seed: int) -> tuple[dict[str, Any], Any]:
    """An entry, and the state of the shared random numbers after it."""
    _seeded(seed)
    entry = {key: packed(value) for key, value in dataset[index].items()}
    return entry, (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]


def _seeded(seed: int) -> Any:
    random.seed(seed)
    np.random.seed(seed)
    return random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]


def packed(value: Any) -> Any:
    """A value as JSON has it, with what JSON does not tell apart: {kind: items}."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return [packed(x) for x in value]
    if isinstance(value, dict) and all(isinstance(x, str) for x in value):
        return {key: packed(x) for key, x in value.items()}
    if isinstance(value, dict):
        return {DICT: [[packed(key), packed(x)] for key, x in value.items()]}
    return {TUPLE: [packed(x) for x in value]} if isinstance(value, tuple) else str(value)


def unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [unpacked(x) for x in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TUPLE}:
        return tuple(unpacked(x) for x in value[TUPLE])
    if value.keys() == {DICT}:
        return {unpacked(key): unpacked(x) for key, x in value[DICT]}
    return {key: unpacked(x) for key, x in value.items()}


def _looked_through(dataset: Any, count: int, budget: float) -> dict[str, Any]:
    """Make as many entries as `budget` seconds give: the rare is better found before the first."""
    end = time.process_time() + budget  # a busy machine looks through as many
    for index in range(count):
        _entry(dataset, index)
        if time.process_time() > end:
            break
    return {}


class Entry(dict[str, Any]):
    """An entry that notes what is read of it."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def _scores(dataset: Any, entry: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """A score for each text, null and a reason where the scorer raised; what it read."""
    noted, raised = Entry(unpacked(entry)), {}
    scores: list[float | None] = []
    for text in texts:
        try:
            scores.append(float(dataset.score_answer(text, entry=noted)))
        except Exception as error:  # noqa: BLE001 - scorers trust that answers are well formed
            scores.append(None)
            raised = {"reason": "raised", "error": _said(error)}
    return {"scores": scores, "read": sorted(noted.read), **raised}


def _limit_cpu(seconds: float | None) -> None:
    """Let the kernel kill this process where nobody is left to do it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = resource.RLIM_INFINITY
    if seconds is not None:
        limit = int(used.ru_utime + used.ru_stime + seconds) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
