"""A teacher behind HTTP, whatever the provider: prompts, limits, prices, errors.

The adapter speaks the wire format; here is what all of them share. How the calls travel is live.py
or batches.py.
"""

import functools
import json
import logging
import math
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import teachers
from pipeline.core.errors import UserError
from pipeline.data import text as texts
from pipeline.engines.asks import Ask, Draw
from pipeline.judgments.keys import Prompt, canonical
from pipeline.judgments.schema import Judgment
from pipeline.teachers import batches, continuations, live, network
from pipeline.teachers.capabilities import Capability
from pipeline.teachers.protocol import NEIGHBOURS, Answered, Asked, Continuation, Said, until_end
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.wire import api_keys
from pipeline.teachers.wire.calls import Adapter, Asking, Call, Refused, Reply, Transient, runs
from pipeline.teachers.wire.counting import CHARACTERS_PER_TOKEN, MANY_CHARACTERS, counted

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
        self._encoded = functools.lru_cache(NEIGHBOURS)(self._encode)
        self._doubted = False  # its usage, which was said

    def sampler(self) -> dict[str, Any]:
        return sampler(self.can, self.asked.temperature)

    @functools.cached_property
    def same_tokens(self) -> bool:
        """The student's own ids are sent: the tokenizer is the same, to the letter."""
        if self.asked.continuation != "completions" or not self.can.takes_ids:
            return False
        if not (self.student / "tokenizer.json").is_file():
            return False  # a check before the student exists
        own = json.loads(self.tokenizer.backend_tokenizer.to_str())
        from pipeline.engines import checkpoints

        student = checkpoints.tokenizer(self.student / "tokenizer.json")
        return bool(own == json.loads(student.to_str()))

    @property
    def template(self) -> "PreTrainedTokenizerFast | None":
        """In the other modes the provider renders, by the template that `tokenizer` names."""
        if self.continuation != "completions":
            source = self.config.tokenizer
            if source is None:
                return None
            if source == "student" and not (self.student / "tokenizer.json").is_file():
                return None  # a check before the student exists
        return self.tokenizer

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        from pipeline.engines.chat import turn_ends

        if self.template is None:
            return ()
        where = self.student if self.config.tokenizer == "student" else self.config.tokenizer
        return tuple(turn_ends.sources(self.template, turn_ends.listed_ends(str(where))))

    @functools.cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        source = self.config.tokenizer
        if source is None:
            raise UserError(
                f"teachers.{self.name}.tokenizer: mode completions renders the teacher's own chat "
                "template, so it needs the tokenizer: student, a folder, or a hub name. Or set "
                "teach.continuation: prefill."
            )
        if source == "student" and not (self.student / "tokenizer.json").is_file():
            raise UserError(
                f"teachers.{self.name}.tokenizer: the student does not exist yet. Run "
                "`omniopd repro`: it makes it, and stops before it spends anything if the teacher "
                "fails its check."
            )
        from pipeline.engines.chat import tokenizer_files

        owner = f"teachers.{self.name}.tokenizer"
        try:
            return (
                tokenizer_files.load(self.student)
                if source == "student"
                else tokenizer_files.read_in(source, owner)
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{owner}: {source!r} could not be loaded ({error}). "
                "Wanted: student, a folder with tokenizer.json, or a name on the hub."
            ) from error

    def prompt(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        text = text.replace(texts.LOST, "")  # what stands for no character is not sent
        match self.asked.continuation:
            case "completions":
                return self._rendered(messages, ids, text)
            case "prefill":
                return canonical(self._prefilled(messages, text)).decode()
            case "instruct":
                return canonical(continuations.instruct(messages, text)).decode()

    def _rendered(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        """The teacher's own template and the raw prefix: the student's ids where they mean the
        same to both sides, as a text is tokenised again at the cut and continued as another word.
        Else the teacher's ids, so that no server puts a second BOS before them."""
        from pipeline.engines.chat import templates

        prompt = templates.render(self.tokenizer, messages, f"teacher {self.name}")
        if not self.can.takes_ids:
            return prompt + text
        if not self.same_tokens:
            return tuple(self._encode(prompt + text))
        return (*self._encoded(prompt), *ids)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _prefilled(self, messages: list[dict[str, str]], text: str) -> list[dict[str, str]]:
        """The prefix as the last message. Raises UserError if the template is known to alter it."""
        prefix = text.rstrip()  # providers refuse trailing white space, or strip it
        if not prefix:
            return messages
        turns = [*messages, {"role": "assistant", "content": prefix}]
        if self.config.tokenizer:
            from pipeline.engines.chat import templates

            try:
                how = {"generation": False, "continue_final_message": True}
                shown = templates.render(self.tokenizer, turns, f"teacher {self.name}", **how)
            except ValueError as error:  # the text is nowhere in what the template makes of it
                shown = str(error)
            if not shown.endswith(prefix):
                raise UserError(
                    f"teachers.{self.name}: its chat template alters the prefilled text, found "
                    f"{shown[-80:]!r} at the end, wanted {prefix[-80:]!r}. "
                    "Set teach.continuation: completions."
                )
        return turns

    def size(self, prompt: Prompt) -> int:
        if isinstance(prompt, tuple):
            return len(prompt)
        if self.config.tokenizer is None:
            return int(len(prompt) / MANY_CHARACTERS)
        if self.continuation == "completions":
            return len(self._encode(prompt))
        return sum(len(self._encoded(message["content"])) for message in json.loads(prompt))

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
        read = 0 if reply.prompt_tokens else self._read(call.prompt)
        found = counted(reply, read, call.limit, self.can.first_alone, self._count)
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

    def _count(self, text: str) -> int | None:
        """Tokens of a text by the teacher's tokenizer; None where none is named."""
        if self.config.tokenizer is None:
            return None
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def _read(self, prompt: Prompt) -> int:
        """Tokens of a prompt, rather too many: messages are estimated."""
        if isinstance(prompt, str) and self.continuation == "completions":
            return len(self._encode(prompt))
        return math.ceil(tokens(prompt))

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
        """What to tell the user: teacher, request, cause and remedy, without any key."""
        where = (
            f"teacher {self.name} ({self.provider} {self.model}), request {call.draws[0].key[:12]}"
        )
        reason = self.redact(str(error))
        if isinstance(error, Transient) and not error.reached:
            return UserError(
                f"{where}: not reached in {sent} tries: {reason}. Check the network and "
                f"teachers.{self.name}.base_url, then run it again; what arrived is kept."
            )
        if isinstance(error, Transient):
            return UserError(
                f"{where}: failed {sent} times, last: {reason}. Every answer that arrived is "
                f"kept; run it again later, or raise teachers.{self.name}.tries or "
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


def tokens(prompt: Prompt) -> float:
    """Tokens of a prompt; estimated from its characters where it is text."""
    return len(prompt) / CHARACTERS_PER_TOKEN if isinstance(prompt, str) else len(prompt)


def _calls(i: int, ask: Ask, draws: Sequence[Draw], limit: int, most: int) -> Iterator[Call]:
    by_position: dict[int, list[Draw]] = {}
    for draw in draws:
        by_position.setdefault(draw.position, []).append(draw)
    for position in sorted(by_position):  # nested prefixes in turn: a prefix cache has the last
        whole = Call(i, ask.prompts[position], tuple(by_position[position]), limit)
        yield from runs(whole, by_position[position], most)
