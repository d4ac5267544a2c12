"""One call of a teacher behind HTTP, as an adapter is handed it and answers it; its errors."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol

import tenacity

from pipeline.config.params import Mode
from pipeline.config.teachers import Hosted
from pipeline.core.errors import UserError
from pipeline.engines.asks import Draw
from pipeline.judgments.keys import Prompt
from pipeline.teachers.capabilities import Capability
from pipeline.teachers.protocol import Answered, Reason

Messages = list[dict[str, str]]


FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before another try, where the provider names none
LONGEST_RETRY_AFTER = 300.0  # seconds; a provider that wants more is asked again after this


# bytes of a reply: what any may have, and for each token that was asked for or sent; text may be
# escaped, and a token's id may come beside it
LEAST_ROOM, ROOM_A_TOKEN = 1_000_000, 256
ROOM: ContextVar[int] = ContextVar("ROOM", default=LEAST_ROOM)  # for the reply that is waited for


class Transient(Exception):
    """A transient error, which another try may not meet: busy, broken connection, half a reply."""

    def __init__(
        self,
        reason: str,
        retry_after: float | None = None,
        answered: bool = False,
        reached: bool = True,
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after  # seconds, where the provider said so
        self.reached = reached  # false: no connection was made, so nothing was sent
        # nothing was done, as the provider said or nobody was reached; otherwise it may have done
        # and billed the work
        self.answered = answered or not reached


class Refused(Exception):
    """An error that another try would meet again."""

    answered = reached = True

    def __init__(
        self,
        reason: str,
        batch: Literal["kept", "lost", "ended"] = "kept",
        remedy: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.remedy = remedy  # a sentence, where more is known than that the provider refused
        # what becomes of the batch that was asked for: still to be collected; no longer there, so
        # that it is sent again; or failed or cancelled, so that it is not
        self.batch = batch


@dataclass(frozen=True)
class Call:
    """Some samples of one prefix in one request."""

    ask: int  # index of the ask that it belongs to
    prompt: Prompt
    draws: tuple[Draw, ...]  # consecutive samples: their seeds are consecutive too
    limit: int  # tokens of each sample

    @property
    def messages(self) -> Messages:
        """The messages, where the mode sends messages."""
        assert isinstance(self.prompt, str)
        return list(json.loads(self.prompt))

    @property
    def prefilled(self) -> str:
        """The prefix as the last message of mode prefill, or nothing."""
        last = self.messages[-1]
        return last["content"] if last["role"] == "assistant" else ""


def room(call: Call) -> int:
    """Bytes that the reply to `call` may have: rather many, as what does not fit was paid for."""
    most = len(call.draws) * call.limit + len(call.prompt)
    return LEAST_ROOM + ROOM_A_TOKEN * most


@contextlib.contextmanager
def roomy(call: Call) -> Iterator[None]:
    """Room for the reply to `call`, while it is waited for."""
    token = ROOM.set(room(call))
    try:
        yield
    finally:
        ROOM.reset(token)


def runs(call: Call, draws: Sequence[Draw], most: int) -> list[Call]:
    """Calls for `draws`, each of at most `most` consecutive samples."""
    runs: list[list[Draw]] = []
    for draw in sorted(draws, key=lambda draw: draw.sample):
        if runs and len(runs[-1]) < most and runs[-1][-1].sample == draw.sample - 1:
            runs[-1].append(draw)
        else:
            runs.append([draw])
    return [Call(call.ask, call.prompt, tuple(run), call.limit) for run in runs]


@dataclass(frozen=True)
class Choice:
    sample: int  # 0 to n - 1 of this call
    text: str
    ended: bool
    token_ids: list[int] | None = None
    failure: Reason | None = None
    tokens: int | None = None  # of the text, as the server's own tokenizer counts it
    thought: bool = False  # reasoning came beside the text


@dataclass(frozen=True)
class Reply:
    choices: list[Choice]
    model: str
    prompt_tokens: int | None  # None where usage has none that can be
    completion_tokens: int | None  # of all choices
    fingerprint: str | None = None  # of what serves the model


MISSING = ""  # key of what stands for the requests that a batch's results leave out
Result = Reply | Transient | Refused  # of one request of a batch


class Adapter(Protocol):
    """One provider's wire format, spoken through its own SDK."""

    def open(self) -> AbstractAsyncContextManager[Any]:
        """A client with its connections. Raises UserError without SDK or key."""
        ...

    async def send(self, client: Any, call: Call) -> Reply:
        """One request. Raises Transient or Refused."""
        ...

    batch_bytes: int  # of prompts, what one batch may hold

    async def submit(self, client: Any, calls: Mapping[str, Call]) -> str:
        """Hand calls, by the key of their first draw, to the batch service; returns its id."""
        ...

    async def collect(self, client: Any, batch: str) -> dict[str, Result] | None:
        """None while it runs; then by key the replies, or why one failed or expired.

        Under MISSING, why those that are not named have none. Raises Refused, with what becomes of
        the batch.
        """
        ...


class Service(Protocol):
    """The parts of a teacher behind HTTP that live and batch requests need."""

    config: Hosted
    name: str
    provider: str
    can: Capability
    adapter: Adapter

    def batches(self, limit: int) -> str:
        """Whose batches may serve."""
        ...

    def worst(self, call: Call) -> tuple[float, float]:
        """Dollars and tokens, prompt and completion, that a request takes at most."""
        ...

    def answered(self, call: Call, reply: Reply, sent: int, reserved: float) -> Answered:
        """The reply as answers to the call's draws."""
        ...

    def error(self, call: Call, error: Transient | Refused, sent: int) -> UserError:
        """The error for the user, without any key."""
        ...

    def redact(self, text: str) -> str:
        """The beginning of `text` without the API key."""
        ...


@dataclass(frozen=True)
class Asking:
    """The settings that all requests of a teacher share."""

    model: str
    mode: Mode
    sampler: dict[str, Any]  # temperature included, where the model takes one


def clean(text: str) -> str:
    """Text that can be stored: half of a surrogate pair cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def ended(reason: Any, stop: set[str], length: set[str]) -> bool:
    """Whether the teacher stopped by itself. Raises Refused for a reason that is neither."""
    if reason in stop:
        return True
    if reason in length:
        return False
    raise Refused(f"finish reason {reason!r}, wanted one of {sorted(stop | length)}")


def missing_sdk(package: str, extra: str) -> UserError:
    return UserError(
        f"teachers: the package {package} is not installed. "
        f"Run `pip install 'omniopd-pipeline[{extra}]'`."
    )


BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # worth another try


def status_error(status: int, message: str, headers: Mapping[str, str]) -> Transient | Refused:
    """The error of an HTTP status: 429 because the account is empty is not transient."""
    text = f"HTTP {status}: {message}"
    if 300 <= status < 400:
        return Refused(
            f"HTTP {status}: redirected to {headers.get('location', 'nowhere')}, and neither the "
            "request nor the key is sent on",
            remedy="If that is where the server is, set base_url to it, without the endpoint.",
        )
    if status not in BUSY or "insufficient_quota" in message:
        return Refused(text, batch="lost" if status in (404, 410) else "kept")
    return Transient(text, _seconds(headers.get("retry-after", "")), answered=True)


def _seconds(retry_after: str) -> float | None:
    """Retry-After in seconds, from now where it is a date, within bounds; None where neither."""
    try:
        seconds = float(retry_after.strip().removesuffix("s"))  # some write 2s
    except ValueError:
        try:
            until = parsedate_to_datetime(retry_after)
            seconds = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError):
            return None
        seconds -= time.time()
    return None if math.isnan(seconds) else min(max(0.0, seconds), LONGEST_RETRY_AFTER)


def tries(count: int, stop: asyncio.Event) -> tenacity.AsyncRetrying:
    """Up to `count` tries after transient errors; `stop` ends the waiting between them."""

    async def sleep(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)

    return tenacity.AsyncRetrying(
        sleep=sleep,
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, Transient) and not stop.is_set()
        ),
        stop=tenacity.stop_after_attempt(count),
        wait=_wait,
        reraise=True,
    )


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds to wait: as many as the provider asks for, or exponentially more with jitter."""
    error = state.outcome.exception() if state.outcome else None
    own = float(tenacity.wait_random_exponential(FIRST_WAIT, LONGEST_WAIT)(state))
    asked = error.retry_after if isinstance(error, Transient) else None
    return asked or own
