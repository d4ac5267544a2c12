"""Teach tokens/s with shared prefixes on SmolLM2: nested prefixes of a response, N answers each.

teach_generate       the local teacher on engine hf; peer: transformers' `generate` on the prefixes
                     with num_return_sequences = N, all prefixes in one batch
teach_vllm_generate  the same on engine vLLM, running before the clock starts; same peer

Each repeat has responses of its own, so that no cache knows them.
"""

from pathlib import Path
from typing import Any

from benchmarks import student
from benchmarks.measure import Row, row, seconds, threads
from benchmarks.rollout import plain

RESPONSES, FORKS, N, CHUNK, LENGTH = 2, 5, 8, 16, 192
REPEATS = 2


def rows(scratch: Path) -> list[Row]:
    from pipeline.config.params import Runtime
    from pipeline.engines.torch_setup import start
    from pipeline.teachers.protocol import Asked
    from pipeline.teachers.providers.local import LocalTeacher

    runtime, folder = Runtime(threads=threads(), batch_tokens=1 << 20), student.checkpoint(scratch)
    start(runtime)
    from pipeline.engines.hf import load

    policy = load(folder)
    how = Asked("completions", 1.0, "live", runtime)
    teachers = {engine: LocalTeacher(folder, folder, how, engine) for engine in ("hf", "vllm")}
    asks = _asks(policy, REPEATS + 1)
    rates: dict[str, list[float]] = {name: [] for name in (*teachers, "generate")}
    for repeat, some in enumerate(asks):
        found = {name: _rate(teacher, some) for name, teacher in teachers.items()}
        prefixes = [list(prompt) for ask in some for prompt in ask.prompts.values()]
        if repeat == 0:  # has loaded and warmed the teachers
            plain(policy, prefixes[:1], 1)
            continue
        tokens: list[int] = []
        taken = seconds(lambda: tokens.append(plain(policy, prefixes, CHUNK, N)))  # noqa: B023
        found["generate"] = tokens[0] / taken
        for name, rate in found.items():
            rates[name].append(rate)
    teachers["vllm"]._engine.close()
    words = f"transformers' generate, num_return_sequences={N}"
    told = ("tokens/s", "higher", words)
    return [
        row("teach_generate", *told, rates["hf"], rates["generate"]),
        row("teach_vllm_generate", *told, rates["vllm"], rates["generate"]),
    ]


def _rate(teacher: Any, asks: list[Any]) -> float:
    tokens: list[int] = []

    def run() -> None:
        for answered in teacher.answer(asks, CHUNK, None):
            tokens.extend(len(c.token_ids) for c in answered.continuations.values())

    taken = seconds(run)
    assert len(tokens) == RESPONSES * FORKS * N
    return sum(tokens) / taken


def _asks(policy: Any, sets: int) -> list[list[Any]]:
    """Responses are other problems' texts: only their length matters."""
    from pipeline.engines.asks import Ask, Draw

    problems = student.problems(60)
    stream = [t for x in problems[20:] for t in policy.tokenizer.encode(x.prompt)]
    places = [LENGTH * (fork + 1) // (FORKS + 1) for fork in range(FORKS)]
    found = []
    for index in range(sets * RESPONSES):
        prompt = policy.prompt_ids(problems[index].messages)
        response = stream[index * LENGTH : (index + 1) * LENGTH]
        assert len(response) == LENGTH
        draws = [
            Draw(at, i, 1000 * index + 100 * f + i) for f, at in enumerate(places) for i in range(N)
        ]
        found.append(Ask({at: (*prompt, *response[:at]) for at in places}, draws))
    return [found[i : i + RESPONSES] for i in range(0, len(found), RESPONSES)]
