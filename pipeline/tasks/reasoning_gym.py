"""Generated problems of reasoning-gym, with the datasets' own checkers.

A process of its own makes problems and scores answers: it has one hash seed, as some datasets draw
from sets of strings, and it can be killed, as some scorers hand what the model wrote to sympy.
Before the first problem of a dataset is drawn, the dataset is proved; docs/tasks.md lists which
pass. Where a scorer reads more of an entry than its answer, column `answer` holds it as JSON.
Worked solutions are made where the question can be worked out step by step (chain_sum).
"""

import atexit
import functools
import importlib.metadata
import json
import os
import random
import re
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline import params, seeds
from pipeline.errors import UserError
from pipeline.params import Habits
from pipeline.tasks import Checked, Problem

BLOCK = 1024  # problems of one generator before a new one is seeded
PROVED = 5  # problems that a dataset is proved on
SEARCHED = 64  # problems among which another answer is looked for
LONGEST = 20_000  # characters of a final answer; no dataset's own has 2,000
LOOKED = 3.0  # seconds of the processor to look through a dataset
SECONDS = 20.0  # for the scores of one answer
MEMORY = 2 << 30  # bytes that the process may take above its imports
MARK = "reasoning-gym"  # field of an answer that is an entry: the version that made it
TUPLE, DICT = "__tuple__", "__dict__"
NONSENSE = "zebra"
PROBES = (NONSENSE, "", "0", "[1, 2]", "a b\nc d")  # to see what a scorer reads
START = re.compile(r"answer[ \t]*[:=](?:\*\*)?[ \t]*", re.IGNORECASE)
FENCE = re.compile(r"\s*(`{3,}|~{3,})[^\n]*\n(.*?)\n[ \t]*\1", re.DOTALL)
EXPRESSION = re.compile(r":\s*([-+\d\s]+?)\s*=\s*$")


class Prepare(params.TaskPrepare):
    """Generated problems with their checkers, datasets in turn."""

    task: Literal["reasoning-gym"]
    datasets: dict[str, dict[str, Any]]  # name: generator settings
    instruction: str  # appended to each question


def load(prepare: Prepare) -> "ReasoningGym":
    return ReasoningGym(prepare)


class ReasoningGym:
    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self._read: dict[str, list[str]] = {}  # by dataset, what its scorer reads of an entry

    def alphabet(self) -> str:
        raise UserError(
            "pretrain: reasoning-gym problems have no fixed alphabet for a character model. "
            "Start from pretrained weights (init kind gguf or hub)."
        )

    def problems(self, seed: int) -> Iterator[Problem]:
        """The datasets in turn, endlessly. Raises UserError for one that does not prove itself."""
        for name in self.prepare.datasets:
            self.prove_set(name, seed)
        streams = {name: self._stream(name, seed) for name in self.prepare.datasets}
        while True:
            for name, stream in streams.items():
                entry = next(stream)
                question = str(entry["question"])
                content = f"{question}\n{self.prepare.instruction}"
                messages = [{"role": "user", "content": content}]
                yield Problem(name, messages, question, self._stored(name, entry))

    def _stream(self, name: str, seed: int) -> Iterator[dict[str, Any]]:
        block = 0
        while True:
            for index in range(BLOCK):
                entry = self._entry(name, _start(name, seed, block), index)
                self._own(name, entry)
                yield entry
            block += 1

    def prove_set(self, name: str, seed: int) -> None:
        """Raise UserError unless the dataset is a function of its seed and grades as it has to."""
        first = _start(name, seed, 0)
        entries = [self._entry(name, first, index) for index in range(PROVED)]
        for what, settings in (("read twice", {}), ("of a larger pool", {"size": 2 * BLOCK})):
            for index in reversed(range(PROVED)):
                if self._entry(name, first, index, copy=what, **settings) != entries[index]:
                    raise refused(name, f"problem {index} is another one when {what}")
        self._make(name, "look", seed=first, size=BLOCK, count=BLOCK, budget=LOOKED)
        answers = [entry["answer"] for entry in entries]
        for index in range(PROVED, SEARCHED):
            if len(set(answers)) > 1:
                break
            answers.append(self._entry(name, first, index)["answer"])
        self._read[name] = self._fields(name, entries[0], answers)
        for entry in entries:
            self._own(name, entry)
            others = list(dict.fromkeys(x for x in answers if x != entry["answer"]))[:3]
            stored = self._stored(name, entry)
            if all(self._correct(name, x, stored) for x in others or [NONSENSE]):
                found = (others or [NONSENSE])[0][:100]
                raise refused(name, f"its scorer calls {found!r} right for {entry['answer']!r}")

    def _fields(self, name: str, entry: dict[str, Any], answers: list[str]) -> list[str]:
        """What its scorer reads of an entry besides the answer."""
        read: set[str] = set()
        for text in (*answers[:2], *PROBES):
            read |= set(self._scores(name, entry, [text]).get("read", ()))
        return sorted(read & entry.keys() - {"answer"})

    def _own(self, name: str, entry: dict[str, Any]) -> None:
        found = self.check(name, f"Answer: {entry['answer']}", self._stored(name, entry))
        if not found.correct:
            shown = f"{entry['answer'][:100]!r}" + (f" ({found.reason})" if found.reason else "")
            raise refused(name, f"its scorer calls its own answer wrong: {shown}")

    def _correct(self, name: str, answer: str, stored: str) -> bool:
        return self.check(name, f"Answer: {answer}", stored).correct

    def _stored(self, name: str, entry: dict[str, Any]) -> str:
        """Column `answer`: the answer, or what the scorer reads of the entry."""
        if not self._read[name]:
            return str(entry["answer"])
        kept = {field: entry[field] for field in ("answer", *self._read[name])}
        return json.dumps({MARK: entry[MARK], **kept})

    def _entry(self, name: str, seed: int, index: int, **more: Any) -> dict[str, Any]:
        settings = {"seed": seed, "size": BLOCK, **more}
        entry: dict[str, Any] = self._make(name, "entry", index=index, **settings)["entry"]
        if not isinstance(entry["answer"], str):
            raise refused(name, f"it has no answer of its own: found {entry['answer']!r}")
        return entry

    def _make(self, name: str, do: str, copy: str = "", **request: Any) -> dict[str, Any]:
        settings = {key: request.pop(key) for key in ("seed", "size")}
        settings = {**self.prepare.datasets[name], **settings}
        found = worker(os.getpid()).ask(None, do, name, settings, copy=copy, **request)
        if found.get("created") is False:
            raise UserError(
                f"prepare.datasets.{name}: {found['error']}. See reasoning-gym's list of datasets "
                "and their settings."
            )
        if "error" in found:
            raise refused(name, found["error"])
        return found

    def _scores(self, name: str, entry: dict[str, Any], texts: list[str]) -> dict[str, Any]:
        settings = {**self.prepare.datasets[name], "seed": 0, "size": 1}
        return worker(os.getpid()).ask(
            SECONDS, "score", name, settings, copy="", entry=entry, texts=texts
        )

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        """Running sums, a line a step, then the answer. Habits have no meaning here."""
        found = EXPRESSION.search(problem.prompt) if problem.task == "chain_sum" else None
        if found is None or habits != Habits():
            raise UserError(
                f"pretrain: no worked solutions with habits {habits} for {problem.task!r}. Leave "
                "it out of the model's datasets, and habits at zero."
            )
        terms = re.findall(r"([+-]?)\s*(\d+)", found[1])
        total = int(terms[0][0] + terms[0][1])
        lines = []
        for sign, number in terms[1:]:
            result = total + int(sign + number)
            lines.append(f"{total} {sign} {number} = {result}")
            total = result
        return "\n".join([*lines, f"Answer: {total}"])

    def check(self, task: str, response: str, answer: str) -> Checked:
        """The text after the last `Answer:`, graded by the dataset; 1.0 is correct.

        Where the scorer does not come to a score, the reason is raised, timeout or crashed.
        """
        entry = entry_of(answer)
        texts = finals(response, str(entry["answer"]))
        if not texts:
            return Checked(None, False)
        if len(texts[0]) > LONGEST:
            return Checked(texts[0][:LONGEST], False, "too_long")
        found = self._scores(task, entry, texts)
        if found.get("created") is False:
            raise UserError(f"prepare.datasets.{task}: {found['error']}")
        correct = 1.0 in found.get("scores", ())
        return Checked(texts[0], correct, None if correct else found.get("reason"))


def refused(name: str, reason: str) -> UserError:
    return UserError(
        f"prepare.datasets.{name}: {reason}. Leave the dataset out, or change its settings; "
        "docs/tasks.md lists which pass."
    )


def _start(name: str, seed: int, block: int) -> int:
    # below 2**31 and far apart: a dataset seeds entry i with its own seed + i
    return seeds.number("reasoning-gym", name, seed, block) % 2**31


def entry_of(answer: str) -> dict[str, Any]:
    """The entry that column `answer` holds. In older tables, and for most datasets, it is plain."""
    if answer.startswith("{"):
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if isinstance(found, dict) and MARK in found:
            return {key: value for key, value in found.items() if key != MARK}
    return {"answer": answer}


def finals(response: str, gold: str) -> list[str]:
    """The final answer of a response, as it stands and without signs of markdown around it.

    It has as many lines as the dataset's own, or is what a fence encloses. Blanks around `gold`
    are part of no answer: where nothing else differs, the answer is `gold` itself.
    """
    places = [match.end() for match in START.finditer(response)]
    rest = response[places[-1] :] if places else ""
    if not rest.strip():
        return []
    fence = FENCE.match(rest)
    lines = gold.strip("\n").count("\n") + 1
    text = fence[2] if fence else "\n".join(rest.lstrip("\r\n").split("\n")[:lines])
    bare = text.strip().strip("*`$ ").rstrip(".").strip()
    whole = gold if text.strip() == gold.strip() else text.strip()
    return list(dict.fromkeys([bare, whole])) if bare else [whole]


class Worker:
    """The process that has reasoning-gym imported. A new one is started after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(
        self, seconds: float | None, do: str, name: str, settings: dict[str, Any], **request: Any
    ) -> dict[str, Any]:
        """Its reply; {reason: timeout or crashed} if there is none after `seconds`."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        line = json.dumps([do, seconds, name, settings, request]) + "\n"
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
            if not select.select([process.stdout], [], [], seconds)[0]:
                self.close()
                return {"reason": "timeout", "error": f"no reply in {seconds} s"}
            reply: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError):  # it ended by itself: out of memory, or a crash in C
            self.close()
            return {"reason": "crashed", "error": "its process ended"}
        return reply

    def _started(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[2])
        source = f"import sys; sys.path.insert(0, {root!r}); import {__name__} as m; m.serve()"
        process = subprocess.Popen(
            [sys.executable, "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            process.kill()
            process.wait()
            raise UserError("reasoning-gym did not start. Is it installed (see above)?")
        return process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@functools.cache
def worker(pid: int) -> Worker:
    """The one of this process; a forked child asks one of its own."""
    found = Worker()
    atexit.register(found.close)
    return found


def serve() -> None:
    """The process: a line of JSON for a request, one for its reply, until stdin closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # scorers print
    import reasoning_gym  # about 2 s: it imports every dataset

    @functools.lru_cache(maxsize=512)
    def made(name: str, settings: str, copy: str) -> Any:
        return reasoning_gym.create_dataset(name, **json.loads(settings))

    with open("/proc/self/statm") as file:
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
        except Exception as error:  # noqa: BLE001 - a dataset may raise anything
            reply = json.dumps({"created": False, "error": _said(error)})
        else:
            try:
                reply = json.dumps(deeds[do](dataset, **request))
            except Exception as error:  # noqa: BLE001 - here too
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
    """Where nobody is left to kill it, the kernel does."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = resource.RLIM_INFINITY
    if seconds is not None:
        limit = int(used.ru_utime + used.ru_stime + seconds) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
