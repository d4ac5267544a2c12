"""A local checkpoint as teacher.

The model is loaded at the first question, so a stage whose answers are all stored never loads
it. With transformers the longest prefix of a response is read once; its forks start from slices of
that KV cache and their N continuations from copies of the slice. vLLM's prefix cache does the same
for prefixes that arrive one after the other.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import params
from pipeline.core.errors import UserError
from pipeline.data import text as texts
from pipeline.engines import checkpoints
from pipeline.engines.asks import Ask, Draw
from pipeline.engines.chat import templates, tokenizer_files, turn_ends
from pipeline.engines.torch_setup import start
from pipeline.judgments.keys import Prompt
from pipeline.judgments.schema import Judgment
from pipeline.teachers.protocol import NEIGHBOURS, Answered, Asked, Continuation, Said, until_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.engines.hf import Policy
    from pipeline.engines.vllm.engine import Engine
    from pipeline.teachers.purchase.budget import Budget

# what else pipeline/engines/vllm/vllm_worker.py sends
OFF = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}

RESIDENT = 3_000_000_000  # parameters above which an engine outlives its stage


class LocalTeacher:
    continuation: params.Mode = "completions"
    takes_seed = True

    def __init__(
        self,
        folder: Path,
        student: Path,
        asked: Asked,
        engine: params.Engine = "hf",
        resident: bool | None = None,
    ) -> None:
        if asked.continuation != self.continuation:
            raise UserError(
                f"teach.continuation: found {asked.continuation}, wanted completions for a local "
                "checkpoint: the prefix is its own input."
            )
        self.folder, self.asked, self.engine = checkpoints.check(folder), asked, engine
        self.resident, self.context = resident, checkpoints.context(folder)
        # in the key of an answer: from the same seed another engine draws another one
        self.provider: str = "local" if engine == "hf" else engine
        self.model = checkpoints.fingerprint(folder)
        self._same_tokens = (
            checkpoints.tokenizer(student / "tokenizer.json").to_str()
            == checkpoints.tokenizer(folder / "tokenizer.json").to_str()
        )
        self.tokenizer, self._ends = tokenizer_files.load(folder), turn_ends.ends(folder)
        self._encoded = functools.lru_cache(NEIGHBOURS)(self._encode)

    @property
    def same_tokens(self) -> bool:
        return self._same_tokens

    @property
    def template(self) -> "PreTrainedTokenizerFast":
        return self.tokenizer

    @property
    def ends(self) -> tuple[int, ...]:
        return self._ends

    def sampler(self) -> dict[str, Any]:
        sent = {"temperature": self.asked.temperature, "top_p": 1.0, "top_k": 0}
        return sent if self.engine == "hf" else sent | OFF

    def prompt(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        """The student's own ids where both sides have one tokenizer: a text prefix would be
        tokenised again at the cut and continued as another word."""
        rendered = templates.render(self.tokenizer, messages, f"teacher {self.folder}")
        if not self._same_tokens:
            return tuple(self._encode(rendered + text.replace(texts.LOST, "")))
        return (*self._encoded(rendered), *ids)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def size(self, prompt: Prompt) -> int:
        return len(prompt)

    def said(self, prompt: Prompt, prefix: str, judgment: Judgment) -> Said:
        if judgment.token_ids is None:
            return Said(judgment.text, judgment.ended, None)
        ids, ended = until_end(judgment, self._ends)
        return Said(self._text(prompt, bool(prefix), ids), ended, ids)

    def _text(self, prompt: Prompt, follows: bool, ids: list[int]) -> str:
        """Text of ids that follow a prefix, or that begin an answer."""
        kept = ids[:-1] if ids and ids[-1] in self._ends else ids
        decode = functools.partial(texts.decode, self.tokenizer.backend_tokenizer)
        return texts.decode_after(decode, tokens(prompt) if follows else [], kept)

    def limit(self, chunk_tokens: int) -> int:
        return chunk_tokens if self.same_tokens else -(-3 * chunk_tokens // 2) + 8

    def same_model(self, returned: str) -> bool:
        return returned == self.model

    @property
    def counts(self) -> dict[str, int]:
        """Engine vllm's counts of its prompts: their tokens, and those that it found cached."""
        return dict(self._engine.counts) if "_engine" in self.__dict__ else {}

    def answer(self, asks: Sequence[Ask], limit: int, budget: "Budget") -> Iterator[Answered]:
        """The budget is for what is paid; this costs electricity."""
        match self.engine:
            case "hf":
                return self._through_transformers(asks, limit)
            case "vllm":
                return self._through_vllm(asks, limit)

    def _through_transformers(self, asks: Sequence[Ask], limit: int) -> Iterator[Answered]:
        """An ask a reply."""
        from pipeline.engines.prefix_sharing import branches

        size = self.asked.runtime.batch_tokens
        branched = branches(self._policy, asks, self.asked.temperature, limit, size)
        for i, (ask, continued) in enumerate(zip(asks, branched, strict=True)):
            continuations = {
                draw: self._continuation(ask, draw, generated.token_ids, generated.finish_reason)
                for draw, generated in zip(ask.draws, continued, strict=True)
            }
            tokens = sum(c.prompt_tokens + c.completion_tokens for c in continuations.values())
            yield Answered(i, continuations, tokens=tokens)

    def _through_vllm(self, asks: Sequence[Ask], limit: int) -> Iterator[Answered]:
        """A prefix a reply, its samples in one request; nested prefixes in ascending order."""
        from pipeline.engines.vllm.engine import Job, Settings

        asked = [(i, run) for i, ask in enumerate(asks) for run in runs(ask.draws)]
        jobs = [
            Job(tokens(asks[i].prompts[run[0].position]), run[0].seed or 0, len(run), group=i)
            for i, run in asked
        ]
        settings = Settings(self.asked.temperature, 1.0, 0, limit, self._ends)
        for j, sampled in self._engine.sample(jobs, settings):
            (i, run), prompt = asked[j], len(jobs[j].prompt)
            continuations = {
                draw: self._continuation(asks[i], draw, one.token_ids, one.finish_reason)
                for draw, one in zip(run, sampled, strict=True)
            }
            count = prompt + sum(c.completion_tokens for c in continuations.values())
            seed = run[0].seed
            yield Answered(i, continuations, requested_n=len(run), seed_sent=seed, tokens=count)

    def _continuation(
        self, ask: Ask, draw: Draw, token_ids: list[int], finish_reason: str
    ) -> Continuation:
        return Continuation(
            text=self._text(ask.prompts[draw.position], draw.position > 0, token_ids),
            token_ids=token_ids,
            ended=finish_reason == "stop",
            model_returned=self.model,
            prompt_tokens=len(ask.prompts[draw.position]),
            completion_tokens=len(token_ids),
        )

    @functools.cached_property
    def _policy(self) -> "Policy":
        start(self.asked.runtime)
        from pipeline.engines.hf import frozen

        return frozen(self.folder, self.asked.runtime.device)

    @functools.cached_property
    def _engine(self) -> "Engine":
        """Its processes end with this teacher, or with the stage; a large one's with the run."""
        from pipeline.engines.vllm.engine import Engine

        stays = self.resident
        if stays is None:
            stays = checkpoints.parameters(self.folder) > RESIDENT
        return Engine(self.folder, self.asked.runtime, resident=self.model if stays else None)


def runs(draws: Sequence[Draw]) -> list[list[Draw]]:
    """Draws of one prefix with consecutive seeds, which one request takes; prefixes ascending."""
    result: list[list[Draw]] = []
    for draw in sorted(draws, key=lambda draw: (draw.position, draw.sample)):
        last = result[-1][-1] if result else None
        follows = last and last.position == draw.position and last.seed == (draw.seed or 0) - 1
        if follows:
            result[-1].append(draw)
        else:
            result.append([draw])
    return result


def tokens(prompt: Prompt) -> list[int]:
    return [int(token) for token in prompt]  # a local teacher's prompts are token ids
