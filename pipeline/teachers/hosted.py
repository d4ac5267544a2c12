"""A teacher behind HTTP, whatever the provider: limits, prices, answers, errors.

The adapter speaks the wire format; here is what all of them share. What is sent is rendering.py's,
how the calls travel live.py's or batches.py's.
"""

import functools
import logging
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import teachers
from pipeline.core.errors import UserError
from pipeline.data import text as texts
from pipeline.engines.asks import Ask, Draw
from pipeline.judgments.keys import Prompt
from pipeline.judgments.schema import Judgment
from pipeline.teachers import batches, live, network
from pipeline.teachers.capabilities import Capability
from pipeline.teachers.protocol import Answered, Asked, Continuation, Said, until_end
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.rendering import Rendering
from pipeline.teachers.wire import api_keys
from pipeline.teachers.wire.calls import Adapter, Asking, Call, Refused, Reply, Transient, runs
from pipeline.teachers.wire.counting import counted, tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PREFILL_REFUSED = re.compile(r"prefill|end with a user message|final turn|last message", re.I)
log = logging.getLogger("omniopd")


class Hosted:
    def __init__(
        self,
        config: teachers.Hosted,
        name: str,
        asked: Asked,
        student: Path,
        can: Capability,
        adapter: Adapter,
    ) -> None:
        self.config, self.name, self.asked, self.can = config, name, asked, can
        self.student, self.adapter = student, adapter
        self.provider, self.model = config.provider, config.model
        self.continuation = asked.continuation
        self.takes_seed, self.context = can.seeds, config.context
        self.rendering = Rendering(config, name, asked.continuation, student, can.takes_ids)
        self._doubted = False  # its usage, which was said

    def sampler(self) -> dict[str, Any]:
        return sampler(self.can, self.asked.temperature)

    @property
    def same_tokens(self) -> bool:
        return self.rendering.same_tokens

    @property
    def template(self) -> "PreTrainedTokenizerFast | None":
        return self.rendering.template

    @property
    def ends(self) -> tuple[int, ...]:
        return self.rendering.ends

    def prompt(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        return self.rendering.prompt(messages, ids, text)

    def size(self, prompt: Prompt) -> int:
        return self.rendering.size(prompt)

    def said(self, prompt: Prompt, prefix: str, judgment: Judgment) -> Said:
        if judgment.token_ids is None or self.template is None:
            own = None if judgment.token_ids is None else list(judgment.token_ids)
            return Said(judgment.text, judgment.ended, own)
        ids, ended = until_end(judgment, self.ends)
        text = judgment.text
        if len(ids) + 1 < len(judgment.token_ids):  # it went on behind the end
            decode = functools.partial(texts.decode, self.template.backend_tokenizer)
            text = texts.decode_after(decode, prompt if isinstance(prompt, tuple) else [], ids)
        return Said(text, ended, ids)

    def limit(self, chunk_tokens: int) -> int:
        if self.asked.continuation == "instruct":
            return 2 * chunk_tokens + 24  # room for a repeat of the prefix's end
        if self.same_tokens and self.can.token_ids:
            return chunk_tokens
        return -(-3 * chunk_tokens // 2) + 8

    def same_model(self, returned: str) -> bool:
        return same_model(self.model, returned)

    def live(self) -> "Hosted":
        """This teacher asked live, whatever the transport."""
        asked = replace(self.asked, transport="live")
        return Hosted(self.config, self.name, asked, self.student, self.can, self.adapter)

    def answer(self, asks: Sequence[Ask], limit: int, budget: Budget) -> Iterator[Answered]:
        most = min(self.can.most, self.config.samples_per_request or self.can.most)
        calls = [
            call for i, ask in enumerate(asks) for call in _calls(i, ask, ask.draws, limit, most)
        ]
        replies: AsyncGenerator[Answered]
        if self.asked.transport == "batch":
            replies = batches.answer(self, calls, budget)
        else:
            replies = live.answer(self, calls, budget)
        yield from network.replies(replies, budget)
        budget.check()

    def batches(self, limit: int) -> str:
        """Whose batches may serve: an answer of a smaller limit would be too short."""
        return f"{self.provider} {self.model} {self.config.base_url or ''}, {limit} tokens"

    def worst(self, call: Call) -> tuple[float, float]:
        """Dollars and tokens, prompt and completion, that a request takes at most, as estimated."""
        read, written = tokens(call.prompt), len(call.draws) * call.limit
        return self.price(read, written), read + written

    def price(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars; 0 where no price is given."""
        if self.config.price is None:
            return 0.0
        cost = self.config.price.input * input_tokens + self.config.price.output * output_tokens
        return cost / 1e6 * (self.config.price.batch if self.asked.transport == "batch" else 1.0)

    def answered(self, call: Call, reply: Reply, sent: int, reserved: float) -> Answered:
        """The reply as answers to the call's draws; choices beyond them are ignored."""
        read = 0 if reply.prompt_tokens else self.rendering.read(call.prompt)
        found = counted(reply, read, call.limit, self.can.first_alone, self.rendering.count)
        self._doubt(found.doubt)
        usd = self.price(found.prompt, found.completion)
        model, fingerprint = self.redact(reply.model), self.redact(reply.fingerprint or "") or None
        choices = {
            call.draws[choice.sample]: (choice, written)
            for choice, written in zip(reply.choices, found.choices, strict=True)
            if 0 <= choice.sample < len(call.draws)
        }
        return Answered(
            ask=call.ask,
            continuations={
                draw: Continuation(
                    text=choice.text,
                    token_ids=choice.token_ids,
                    ended=choice.ended,
                    model_returned=model,
                    prompt_tokens=found.prompt,
                    completion_tokens=written,
                    failure=choice.failure,
                    usd=usd / len(choices),
                    thought=choice.thought,
                    fingerprint=fingerprint,
                )
                for draw, (choice, written) in choices.items()
            },
            requests=sent,
            requested_n=len(call.draws),
            seed_sent=call.draws[0].seed,
            tokens=found.prompt + found.completion,
            usd=usd,
            reserved=reserved,
        )

    def _doubt(self, why: str) -> None:
        """Say once that tokens are counted here, as the server's usage cannot be believed."""
        if why and not self._doubted:
            self._doubted = True
            log.warning(
                f"teacher {self.name}: {why}. They are counted here, rather too many than too few, "
                "and enter budget and costs like that"
                + (
                    "."
                    if self.config.tokenizer
                    else f"; better with teachers.{self.name}.tokenizer."
                )
            )

    def error(self, call: Call, error: Transient | Refused, sent: int) -> UserError:
        """The error for the user: teacher, request, cause and remedy, without any key."""
        where = (
            f"teacher {self.name} ({self.provider} {self.model}), request {call.draws[0].key[:12]}"
        )
        reason = self.redact(str(error))
        if isinstance(error, Transient) and not error.reached:
            return UserError(
                f"{where}: not reached in {sent} tries: {reason}. Check the network and "
                f"teachers.{self.name}.base_url, then rerun; what arrived is kept."
            )
        if isinstance(error, Transient):
            return UserError(
                f"{where}: failed {sent} times, last: {reason}. Every answer that arrived is "
                f"kept; rerun later, or raise teachers.{self.name}.tries or "
                f"timeout_seconds, or lower its concurrency."
            )
        if self.continuation == "prefill" and PREFILL_REFUSED.search(reason):
            return UserError(
                f"{where}: does not continue a prefilled answer ({reason}). "
                "Set teach.continuation: instruct, and correct pipeline/teachers/capabilities.py."
            )
        remedy = isinstance(error, Refused) and error.remedy
        return UserError(
            f"{where}: refused: {reason}. Every answer that arrived is kept. "
            + (
                remedy
                or "Correct what it names: the key, the model's id, or a setting that this model "
                "does not take (pipeline/teachers/capabilities.py)."
            )
        )

    def redact(self, text: str) -> str:
        """The beginning of `text` without the API key, which some providers repeat."""
        return api_keys.redact(text, self.config)


def sampler(can: Capability, temperature: float) -> dict[str, Any]:
    """Every sampler setting that is sent, thinking switches included."""
    own = {} if can.hottest is None else {"temperature": temperature}
    return {**own, **can.sampler, **can.extra}


def asking(config: teachers.Hosted, asked: Asked, can: Capability) -> Asking:
    return Asking(config.model, asked.continuation, sampler(can, asked.temperature))


def same_model(pinned: str, returned: str) -> bool:
    """Whether `returned` is the pinned id or a dated form of it: -20251001, -2025-10-01."""
    dated = rf"{re.escape(pinned)}-(\d{{8}}|\d{{4}}-\d{{2}}-\d{{2}})"
    return returned == pinned or re.fullmatch(dated, returned) is not None


def _calls(i: int, ask: Ask, draws: Sequence[Draw], limit: int, most: int) -> Iterator[Call]:
    by_position: dict[int, list[Draw]] = {}
    for draw in draws:
        by_position.setdefault(draw.position, []).append(draw)
    for position in sorted(by_position):  # nested prefixes in turn: a prefix cache has the last
        whole = Call(i, ask.prompts[position], tuple(by_position[position]), limit)
        yield from runs(whole, by_position[position], most)
