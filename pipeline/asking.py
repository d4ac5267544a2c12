"""Answers for the forks of a round: looked up first, bought once, drawn again where they failed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.judgments import Judgment, Request, Store, seed_for
from pipeline.teachers import Ask, Continuation, Draw, Teacher

POLL_SECONDS = 0.2  # between looks for an answer that another process is buying
Place = tuple[int, int, int]  # response in its block, position, sample


@dataclass(frozen=True)
class Response:
    """One student response with the prefixes to continue; for a full solution, one empty prefix."""

    id: str
    prefixes: dict[int, list[int]]  # position: teacher tokens of prompt and prefix


@dataclass(frozen=True)
class Wanted:
    """What is asked at each prefix."""

    samples: int
    limit: int  # teacher tokens
    continuation: str
    epoch: int
    max_attempts: int
    replay: bool


@dataclass
class Ledger:
    """What a stage used and what of it was bought now. Failed draws count as bought."""

    answers: int = 0
    bought: int = 0
    failed: int = 0
    draws: int = 0
    tokens_bought: int = 0  # completion tokens
    reasons: dict[str, int] = field(default_factory=dict)


def judge(
    store: Store, teacher: Teacher, block: list[Response], wanted: Wanted, ledger: Ledger
) -> dict[Place, Judgment]:
    """N judgments for each prefix of each response, none of them a failure.

    A failed draw stays in the store with its reason and is drawn again as the next attempt.
    Raises UserError naming response, position and reason when the attempts are used up.
    """
    pending: list[Place] = [
        (r, position, sample)
        for r, response in enumerate(block)
        for position in response.prefixes
        for sample in range(wanted.samples)
    ]
    done: dict[Place, Judgment] = {}
    for attempt in range(wanted.max_attempts):
        requests = dict(_requests(teacher, block, pending, wanted, attempt))
        found = _acquire(store, teacher, block, requests, wanted, ledger)
        ledger.draws += len(pending)
        pending = []
        for place, request in requests.items():
            judgment = found[request.key]
            if judgment.failure is None:
                done[place] = judgment
                continue
            pending.append(place)
            ledger.failed += 1
            ledger.reasons[judgment.failure] = ledger.reasons.get(judgment.failure, 0) + 1
        if not pending:
            ledger.answers += len(done)
            return done
    r, position, sample = pending[0]
    reason = found[requests[pending[0]].key].failure
    raise UserError(
        f"teach: the teacher failed {wanted.max_attempts} times ({reason}) at position {position}, "
        f"sample {sample} of {block[r].id}, and at {len(pending) - 1} other places. Look at these "
        "prefixes, raise teach.max_attempts, or use another teacher or continuation mode."
    )


def _requests(
    teacher: Teacher, block: list[Response], places: list[Place], wanted: Wanted, attempt: int
) -> Iterator[tuple[Place, Request]]:
    sampler = teacher.sampler()
    prompts = {(r, position): tuple(block[r].prefixes[position]) for r, position, _ in places}
    for place in places:
        prompt, sample = prompts[place[:2]], place[2]
        yield (
            place,
            Request(
                provider=teacher.provider,
                model=teacher.model,
                prompt=prompt,
                continuation=wanted.continuation,
                sampler=sampler,
                sample=sample,
                seed=seed_for(prompt, sample, attempt),
                attempt=attempt,
                epoch=wanted.epoch,
            ),
        )


def _acquire(
    store: Store,
    teacher: Teacher,
    block: list[Response],
    requests: dict[Place, Request],
    wanted: Wanted,
    ledger: Ledger,
) -> dict[str, Judgment]:
    """A judgment for every request: stored ones, bought ones, and those that others buy."""
    places = {request.key: place for place, request in reversed(requests.items())}
    found = {j.key: j for j in store.find(places, wanted.limit)}
    while missing := [key for key in places if key not in found]:
        if wanted.replay:
            r, position, sample = places[missing[0]]
            raise UserError(
                f"teach.replay: {len(missing)} of {len(places)} answers are not in the store, the "
                f"first at position {position}, sample {sample} of {block[r].id}. Set it to false "
                "to ask for them, or point JUDGMENTS_URL at the store that has them."
            )
        with store.holding(missing, wanted.limit) as mine:
            # in the order of the requests: a set's order changes from process to process
            keys = [key for key in missing if key in mine]
            bought = {place: requests[place] for place in map(places.__getitem__, keys)}
            for judgment in _buy(store, teacher, block, bought, wanted.limit):
                found[judgment.key] = judgment
                ledger.bought += 1
                ledger.tokens_bought += judgment.completion_tokens
        rest = [key for key in missing if key not in found]
        if rest and not bought:
            time.sleep(POLL_SECONDS)
        found |= {j.key: j for j in store.find(rest, wanted.limit)}
    return found


def _buy(
    store: Store,
    teacher: Teacher,
    block: list[Response],
    requests: dict[Place, Request],
    limit: int,
) -> Iterator[Judgment]:
    """Ask for `requests`; all answers on one response are committed in one transaction."""
    by_response: dict[int, list[tuple[Place, Request]]] = {}
    for place, request in requests.items():
        by_response.setdefault(place[0], []).append((place, request))
    asks = [
        Ask(
            {place[1]: block[r].prefixes[place[1]] for place, _ in wanted},
            [Draw(place[1], place[2], request.seed or 0) for place, request in wanted],
        )
        for r, wanted in by_response.items()
    ]
    answers = teacher.answer(asks, limit)
    for wanted, found in zip(by_response.values(), answers, strict=True):
        judgments = [
            _judgment(request, continuation, limit)
            for (_, request), continuation in zip(wanted, found, strict=True)
        ]
        store.add(judgments)
        yield from judgments


def _judgment(request: Request, found: Continuation, limit: int) -> Judgment:
    if found.model_returned != request.model:
        raise UserError(
            f"teach: asked {request.model}, answered by {found.model_returned}. Nothing of it was "
            "stored. Pin the model that answers."
        )
    return Judgment(
        key=request.key,
        token_limit=limit,
        sample=request.sample,
        text=found.text,
        token_ids=None if found.token_ids is None else tuple(found.token_ids),
        ended=found.ended,
        finish_reason="stop" if found.ended else "length",
        model_returned=found.model_returned,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        failure="failed-empty" if not found.text and not found.ended else None,
        provider=request.provider,
        model=request.model,
        requested_n=1,
        seed_sent=request.seed,
    )
