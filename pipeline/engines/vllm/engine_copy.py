"""One process with vLLM in it, as the engine of a stage uses it."""

import contextlib
import json
import queue
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engines.vllm import vllm_process
from pipeline.engines.vllm.vllm_process import Resident


@dataclass(frozen=True)
class Job:
    """One request: `n` samples after a prompt, the first with `seed`, the next with seed + 1."""

    prompt: Sequence[int]
    seed: int
    n: int = 1
    group: int = 0  # jobs of a group go to the same copy in their order: they share prefixes


class Copy:
    """One process with vLLM in it."""

    def __init__(
        self, started: Mapping[str, Any], env: Mapping[str, str], resident: Resident | None
    ) -> None:
        self._process = vllm_process.start(started, env, resident)
        self.used = self._process.used
        self._idle = threading.Event()
        # also at the end of the interpreter, so that no stage leaves one behind
        self.close = weakref.finalize(self, _end, self._process, self._idle)

    def ask(
        self, how: dict[str, Any], mine: list[int], jobs: Sequence[Job], arrived: "queue.Queue[Any]"
    ) -> None:
        """Hand over jobs; their answers, and at last one `done` or `lost`, come into `arrived`."""
        self._idle.clear()
        lines = [json.dumps({**how, "count": len(mine)})]
        lines += [json.dumps([i, jobs[i].prompt, jobs[i].seed, jobs[i].n]) for i in mine]
        vllm_process.write(self._process.asks, "\n".join(lines))
        threading.Thread(target=self._collect, args=(arrived,), daemon=True).start()

    def load(self, weights: dict[str, str]) -> dict[str, Any] | None:
        """Have it load a checkpoint, after its start; what it says of that, None if it ended."""
        vllm_process.write(self._process.asks, json.dumps({"load": weights}))
        answer = self._process.answers.readline()
        if answer:
            self._idle.set()
            return dict(json.loads(answer))
        return None

    def discard(self) -> None:
        self._idle.clear()
        self.close()

    def lost(self) -> tuple[int | None, list[str]]:
        """Its exit status and the end of its log, after it has ended by itself."""
        status = None
        with contextlib.suppress(OSError):
            status = self._process.lost()
        return status, vllm_process.tail(self._process.log)

    def _collect(self, arrived: "queue.Queue[Any]") -> None:
        for line in self._process.answers:
            answer = json.loads(line)
            if isinstance(answer, dict):
                self._idle.set()
                arrived.put(("done", answer))
                return
            arrived.put(("answer", answer))
        arrived.put(("lost", self.lost()))


def _end(process: vllm_process.Process, idle: threading.Event) -> None:
    process.end(idle.is_set())
