"""Teachers: continue this prefix N times, up to C tokens. Text in, text out."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pipeline.config import params
from pipeline.engines.asks import Ask, Draw
from pipeline.judgments.keys import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.judgments.schema import Judgment
    from pipeline.teachers.purchase.budget import Budget

NEIGHBOURS = 64  # problems whose tokens are kept: those of one problem are asked about in a row
Reason = Literal["refusal", "failed-empty"]  # why a provider itself counts an answer as failed


@dataclass(frozen=True)
class Asked:
    """How a teacher is asked in one cell."""

    continuation: params.Mode
    temperature: float
    transport: params.Transport
    runtime: params.Runtime


@dataclass(frozen=True)
class Continuation:
    """One answer of a teacher, uncut."""

    text: str
    token_ids: list[int] | None  # the teacher's tokens, where it returns them
    ended: bool  # the teacher stopped by itself
    model_returned: str
    prompt_tokens: int
    completion_tokens: int
    failure: Reason | None = None
    usd: float = 0.0
    thought: bool = False  # reasoning came beside the text
    fingerprint: str | None = None  # of what served the model, where the provider tells


@dataclass(frozen=True)
class Answered:
    """One reply of the teacher: a unit of commit."""

    ask: int  # index of the ask
    continuations: dict[Draw, Continuation]
    requests: int = 0  # sent for it, retries included
    requested_n: int = 1
    seed_sent: int | None = None
    tokens: int = 0  # prompt and completion, as billed
    usd: float = 0.0
    reserved: float = 0.0  # dollars set aside for it in the budget


class Said(NamedTuple):
    """The text of a stored answer, up to the first end of a turn in it."""

    text: str
    ended: bool
    token_ids: list[int] | None  # the teacher's own, where it returned them; without the end


def until_end(judgment: "Judgment", ends: Collection[int]) -> tuple[list[int], bool]:
    """The ids of an answer before its first end, and whether it has one.

    A server that knows fewer ends than the model has writes on behind one.
    """
    ids = list(judgment.token_ids or ())
    at = next((i for i, token in enumerate(ids) if token in ends), None)
    return (ids, judgment.ended) if at is None else (ids[:at], True)


class Teacher(Protocol):
    provider: str
    model: str  # pinned id; for a local checkpoint the hash of config, tokenizer and weights
    continuation: params.Mode  # in which the prefix is sent
    takes_seed: bool
    context: int | None  # tokens of the longest row that it reads, where that is known

    @property
    def same_tokens(self) -> bool:
        """Whether the answers' token ids are the student's own."""
        ...

    @property
    def template(self) -> "PreTrainedTokenizerBase | None":
        """The tokenizer whose chat template writes what the teacher reads; None where that is not
        known, as the provider renders."""
        ...

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end its turn, by `template`; of a hosted one as far as its files say."""
        ...

    def sampler(self) -> dict[str, Any]:
        """Every sampler setting that is sent."""
        ...

    def prompt(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        """The problem and the student's prefix as they are sent."""
        ...

    def size(self, prompt: Prompt) -> int:
        """Tokens of a prompt; where they cannot be counted, surely no more than they are."""
        ...

    def said(self, prompt: Prompt, prefix: str, judgment: "Judgment") -> Said:
        """A stored answer as it follows the student's text `prefix`, up to the turn's end."""
        ...

    def limit(self, chunk_tokens: int) -> int:
        """Tokens to ask for, so that the answer covers `chunk_tokens` student tokens."""
        ...

    def same_model(self, returned: str) -> bool:
        """Whether the model that answered is the pinned one, or a dated form of its name."""
        ...

    def answer(self, asks: Sequence[Ask], limit: int, budget: "Budget") -> Iterator[Answered]:
        """Replies as they arrive, in any order, until every draw of every ask has its answer."""
        ...
