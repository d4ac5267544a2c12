"""Answers for the forks of a round: looked up first, bought once, drawn again where they failed."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.core.errors import UserError, too_long
from pipeline.engines.asks import Ask, Draw
from pipeline.judgments import recovery
from pipeline.judgments.claims.held import Held
from pipeline.judgments.keys import Request, seed_for
from pipeline.judgments.ledger import Entry
from pipeline.judgments.schema import Judgment
from pipeline.teachers.protocol import Answered, Teacher
from pipeline.teachers.purchase import taking
from pipeline.teachers.purchase.arrivals import Arrivals
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.ledger import LEAST_DRAWS, Ledger
from pipeline.teachers.purchase.requests import Response

# between looks for an answer that another process is buying: the first, and after a while
POLL_SECONDS, LONGEST_POLL_SECONDS = 0.2, 2.0
TOLD_SECONDS = 30.0  # of waiting for others, before it is said
SHORT = "failed-short"  # reason of an answer that was cut before it has the tokens that are wanted
log = logging.getLogger("omniopd")
Place = tuple[int, int, int]  # response in its block, position, sample
More = dict[tuple[int, int], int]  # response in its block, position: sample


@dataclass(frozen=True)
class Wanted:
    """The answers that are wanted at each prefix."""

    samples: int
    limit: int  # teacher tokens
    epoch: int
    max_attempts: int
    max_failure_rate: float
    replay: bool
    any_reply: bool = False  # of a judge: also one that refuses, or says nothing, is an answer


@dataclass
class Judging:
    """Everything that answers come from and are counted in."""

    teacher: Teacher
    wanted: Wanted
    budget: Budget
    ledger: Ledger = field(default_factory=Ledger)
    before_spending: Callable[[], None] = lambda: None  # called once, before the first purchase
    # what an answer at a position of a response lacks in length, in words; None: nothing
    lacking: Callable[[Response, int, Judgment], str | None] = lambda *_: None
    _may_spend: bool = False
    _short: bool = False  # whether an answer was too short, which was said
    _counted: set[str] = field(default_factory=set)  # keys of this block
    _known: set[str] = field(default_factory=set)  # and of the one before
    _arrivals: Arrivals = field(init=False)

    def __post_init__(self) -> None:
        self._arrivals = Arrivals(self.teacher, self.wanted.limit, self.budget, self.ledger)

    def judge(self, block: list[Response], more: More | None = None) -> dict[Place, Judgment]:
        """N judgments for each prefix of each response, none of them a failure.

        With `more`, the sample of this number at each of these places of the same block alone.

        A failed draw stays in the store with its reason and is drawn again as the next attempt.
        Raises UserError naming response, position and reason when the attempts are used up.
        """
        self.fits(block)
        if more is None:  # equal prefixes are of one prompt: neighbours
            self._known, self._counted = self._counted, set()
        pending = self._places(block, more)
        done: dict[Place, Judgment] = {}
        for attempt in range(self.wanted.max_attempts):
            requests = dict(self.requests(block, pending, attempt))
            found = self._acquire(block, requests)
            self._alone(requests, found)
            pending = []
            first = {request.key: place for place, request in reversed(requests.items())}
            for place, request in requests.items():
                judgment = found[request.key]  # judged where it was wanted first
                if place != first[request.key]:  # other tokens may stand before the same text
                    judgment = self._judged(block, place, judgment)
                if judgment.failure is None:
                    done[place] = judgment
                else:
                    pending.append(place)
            if not pending:
                self.ledger.answers += len(done)
                self.ledger.check(self.wanted.max_failure_rate)
                return done
            self.ledger.check(self.wanted.max_failure_rate, LEAST_DRAWS)
        r, position, sample = pending[0]
        last = found[requests[pending[0]].key]
        lacks = self.lacking(block[r], position, last)
        raise UserError(
            f"teach: the teacher failed {self.wanted.max_attempts} times "
            f"({f'{SHORT}: {lacks}' if lacks else last.failure}) at position {position}, sample "
            f"{sample} of {block[r].id}, last request {last.key[:12]}, and at {len(pending) - 1} "
            "other places. Look at these prefixes, raise teach.max_attempts, or use another "
            f"teacher or continuation mode{', or a shorter forks.chunk_tokens' if lacks else ''}."
        )

    def _places(self, block: list[Response], more: More | None) -> list[Place]:
        if more is not None:
            return [(*place, sample) for place, sample in more.items()]
        asked = ((r, position) for r, one in enumerate(block) for position in one.prompts)
        return [(*place, sample) for place in asked for sample in range(self.wanted.samples)]

    def _judged(self, block: list[Response], place: Place, judgment: Judgment) -> Judgment:
        """The judgment as it counts at a place, by what is wanted there and by the student."""
        if self.wanted.any_reply:
            return judgment._replace(failure=None)
        if judgment.ended or judgment.failure not in (None, SHORT):
            return judgment
        lacks = self.lacking(block[place[0]], place[1], judgment)
        if lacks and not self._short:
            self._short = True
            log.warning(
                f"teach: the answer {judgment.key[:12]} at position {place[1]} of "
                f"{block[place[0]].id} is too short: {lacks}. Such answers are kept as {SHORT} and "
                "drawn again."
            )
        failure = SHORT if lacks else None
        return judgment if judgment.failure == failure else judgment._replace(failure=failure)

    def fits(self, block: Iterable[Response]) -> None:
        """Raise UserError if a prompt leaves no room for an answer in what the teacher reads."""
        most = self.teacher.context
        for response in block:
            for position, prompt in response.prompts.items() if most is not None else ():
                size = self.teacher.size(prompt) + self.wanted.limit
                if most is not None and size > most:
                    raise too_long(
                        f"teach: position {position} of {response.id} and an answer of "
                        f"{self.wanted.limit}",
                        size,
                        most,
                        "Lower rollout.max_new_tokens, use fewer or earlier forks or shorter "
                        "prompts, or a teacher or judge that reads more.",
                    )

    def _alone(self, requests: dict[Place, Request], found: dict[str, Judgment]) -> None:
        """Count each different draw as if it were bought now."""
        drawn: dict[tuple[int, int], list[Judgment]] = {}
        for (r, position, _), request in requests.items():
            if request.key not in self._known and request.key not in self._counted:
                drawn.setdefault((r, position), []).append(found[request.key])
                self._counted.add(request.key)
        self.ledger.alone(drawn, self.wanted.limit)

    def requests(
        self, block: list[Response], places: list[Place], attempt: int
    ) -> Iterator[tuple[Place, Request]]:
        teacher = self.teacher
        sampler = teacher.sampler()
        for place in places:
            prompt, sample = block[place[0]].prompts[place[1]], place[2]
            seed = seed_for(prompt, sample, attempt) if teacher.takes_seed else None
            yield (
                place,
                Request(
                    provider=teacher.provider,
                    model=teacher.model,
                    prompt=prompt,
                    continuation=teacher.continuation,
                    sampler=sampler,
                    sample=sample,
                    seed=seed,
                    attempt=attempt,
                    epoch=self.wanted.epoch,
                ),
            )

    def _acquire(
        self, block: list[Response], requests: dict[Place, Request]
    ) -> dict[str, Judgment]:
        """A judgment for every request: stored ones, bought ones, and those that others buy."""
        store, limit = self.budget.store, self.wanted.limit
        places = {request.key: place for place, request in reversed(requests.items())}
        asked = {key: requests[place] for key, place in places.items()}
        found: dict[str, Judgment] = {}
        recovery.take_in(store)
        for judgment in store.find(asked.values(), limit):
            judged = self._judged(block, places[judgment.key], judgment)
            found[judgment.key] = self._drawn(judged)
        store.enter(Entry(reused=len(found), misses=len(places) - len(found)))
        wait, waited = POLL_SECONDS, 0.0
        while missing := [key for key in places if key not in found]:
            if self.wanted.replay:
                r, position, sample = places[missing[0]]
                raise UserError(
                    f"teach.replay: {len(missing)} of {len(places)} answers are not in the store, "
                    f"the first at position {position}, sample {sample} of {block[r].id}. Set it "
                    "to false to ask for them, or point JUDGMENTS_URL at the store that has them."
                )
            if not self._may_spend:
                self.before_spending()
                self._may_spend = True
            with store.claims.holding([asked[key] for key in missing], limit) as held:
                # in the order of the requests: a set's order changes from process to process
                keys = [key for key in missing if key in held.keys]
                wanted = {places[key]: requests[places[key]] for key in keys}
                # once more: who held these may just have kept them, and let go
                stored = recovery.take_in(store)
                bought = [] if stored else self._bought(block, wanted, held)
                found |= {judgment.key: judgment for judgment in bought}
            rest = [key for key in missing if key not in found]
            if rest and not bought:
                waited = self._waited(rest, waited, wait)
            wait = min(LONGEST_POLL_SECONDS, 1.5 * wait) if not bought else POLL_SECONDS
            for judgment in store.find([asked[key] for key in rest], limit):
                judged = self._judged(block, places[judgment.key], judgment)
                found[judgment.key] = self._drawn(judged)
        return found

    def _bought(
        self, block: list[Response], wanted: dict[Place, Request], held: Held
    ) -> list[Judgment]:
        """Buy what can be bought of `wanted` while it is held."""
        self.budget.held = held
        try:
            return self._buy(block, wanted)
        finally:
            self.budget.held = None
            if held.lost:
                log.warning(
                    f"teach: {len(held.lost)} answers are not bought here: this process stood "
                    "still, or could not renew its claims, for longer than they last, and another "
                    "has taken them."
                )

    def _waited(self, keys: list[str], waited: float, seconds: float) -> float:
        """Wait for answers that others are buying, and say so once; seconds waited in all."""
        time.sleep(seconds)
        if waited < TOLD_SECONDS <= waited + seconds:
            until = self.budget.store.claims.expiry(keys)
            when = "" if until is None else f", and lapse at {time.ctime(until)} if they are not"
            who = " and ".join(self.budget.store.claims.holders(keys)) or "another process"
            log.warning(
                f"teach: waiting for {len(keys)} answers that {who} is buying. Its claims are "
                f"renewed as long as it runs{when}."
            )
        return waited + seconds

    def _drawn(self, judgment: Judgment) -> Judgment:
        self.ledger.draws += 1
        if judgment.failure is not None:
            self.ledger.failures[judgment.failure] += 1
        return judgment

    def _buy(self, block: list[Response], requests: dict[Place, Request]) -> list[Judgment]:
        """Ask for `requests`; all answers of one reply are committed in one transaction.

        When a reply shows that the teacher may not be asked on, nothing more is sent, but what is
        in flight is paid for and kept before the error is raised.
        """
        by_response: dict[int, dict[Draw, Request]] = {}
        for (r, position, sample), request in requests.items():
            draw = Draw(position, sample, request.seed, request.key)
            by_response.setdefault(r, {})[draw] = request
        asks = [
            Ask({draw.position: block[r].prompts[draw.position] for draw in draws}, list(draws))
            for r, draws in by_response.items()
        ]
        of_ask = list(by_response.items())
        bought: list[Judgment] = []
        stopped: UserError | None = None

        def take(answered: Answered) -> None:
            nonlocal stopped
            r, draws = of_ask[answered.ask]
            try:
                self._arrivals.check(answered, asks[answered.ask])
                judgments = [
                    self._judged(
                        block,
                        (r, draw.position, draw.sample),
                        self._arrivals.judgment(
                            draws[draw], block[r].prefixes[draw.position], answered, found
                        ),
                    )
                    for draw, found in answered.continuations.items()
                ]
                self._arrivals.keep(judgments, answered)
                bought.extend(map(self._drawn, judgments))
                self.ledger.check(self.wanted.max_failure_rate, LEAST_DRAWS)
            except UserError as error:
                stopped = stopped or error
                self.budget.halted = True

        if asks:
            replies = self.teacher.answer(asks, self.wanted.limit, self.budget)
            taking.each(replies, take, lambda answered: answered is self._arrivals.handed)
        if stopped:
            raise stopped
        return bought
