"""Rollouts that another trainer made: rows of a file, checked, and read exactly by the student.

A row has a prompt (`prompt` or `messages`), a response (`token_ids`, `text`, or both), and where
the trainer knows them rollout_id, prompt_token_ids, logprobs, finish_reason and reward. TRL's names
prompt_ids, completion_ids and completion are understood too. What forks and weights are made from,
log-probabilities and entropies, comes from the student that is given, never from the file.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline.config import params_file
from pipeline.config.problems import TaskPrepare
from pipeline.core.errors import UserError
from pipeline.data import prompts, schemas, tables
from pipeline.data.text import decode_after, encode_after
from pipeline.engines.chat import prerendered, templates, turn_ends
from pipeline.stage import cells
from pipeline.tasks import Problem
from pipeline.tasks.problem_files import Row
from pipeline.tasks.prompts import problem
from pipeline.training.imported_rows import (
    IDS,
    PROMPT_IDS,
    TEXT,
    check_values,
    ids_of,
    name_of,
    once,
    read,
    reason_of,
    refused,
)

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy

WIDE = 0.05  # nats a token between the file's log-probabilities and ours, from which we warn


class Response(NamedTuple):
    row: Row
    prompt: prompts.Prompt
    rollout_id: str
    sample: int
    prompt_ids: list[int]
    token_ids: list[int]


def write(
    policy: "Policy",
    asked: Sequence[prompts.Prompt],
    prepare: TaskPrepare,
    out: Path,
    run: cells.Run,
) -> None:
    """Write the rollouts of the prompts `asked`, in place of sampled ones."""
    batch_tokens = params_file.runtime().batch_tokens
    with tables.writer(out / "rollouts.parquet", schemas.ROLLOUTS) as file:
        for table in tables_of(prepare, policy, asked, batch_tokens, run.counts):
            file.write_table(table)
            run.rows_out += table.num_rows
            tokens = len(table["token_ids"].combine_chunks().values)
            run.counts["student_tokens"] = int(run.counts.get("student_tokens", 0)) + tokens
    run.rows_in = len(asked)


def tables_of(
    prepare: TaskPrepare,
    policy: "Policy",
    asked: Sequence[prompts.Prompt],
    batch_tokens: int,
    counts: dict[str, Any],
) -> Iterator[pa.Table]:
    """The rollouts of the prompts `asked` in the file's order, a row group at a time.

    Everything is checked before anything is computed. `counts` gets how far the log-probabilities
    of the file are from ours, and how many prompts were rendered otherwise. Raises UserError.
    """
    from pipeline.tasks.prompts import Prepare

    assert isinstance(prepare, Prepare)  # the only task whose rows are rollouts
    reader = Reader(Path(prepare.file), prepare.sha256, policy, asked)
    total = sum(1 for _ in reader.responses())
    gaps, bar = Gaps(), tqdm(total=total, desc="exact pass", disable=None)
    block: list[Response] = []
    for response in reader.responses():
        block.append(response)
        if len(block) == tables.ROWS_PER_GROUP:
            yield _table(policy, block, batch_tokens, gaps, bar)
            block = []
    if block:
        yield _table(policy, block, batch_tokens, gaps, bar)
    bar.close()
    counts["rendered_otherwise"] = reader.rendered_otherwise
    gaps.tell(counts)


class Gaps:
    """Distance between log-probabilities of the file and the student's own."""

    def __init__(self) -> None:
        self.sum, self.largest, self.tokens = 0.0, 0.0, 0

    def add(self, theirs: list[float], ours_T: np.ndarray) -> None:
        gap_T = np.abs(np.asarray(theirs, np.float64) - ours_T)
        self.sum, self.tokens = self.sum + float(gap_T.sum()), self.tokens + len(gap_T)
        self.largest = max(self.largest, float(gap_T.max()))

    def tell(self, counts: dict[str, Any]) -> None:
        if not self.tokens:
            return
        mean = self.sum / self.tokens
        counts |= {"logprob_gap_mean": mean, "logprob_gap_max": self.largest}
        if mean > WIDE:
            cells.log.warning(
                f"rollouts: their log-probabilities are {mean:.3f} nats a token off those of the "
                "student. Is it the checkpoint that wrote them? Sampling at another temperature "
                "than 1 also does that, and harms nothing."
            )


class Reader:
    """Rows as responses of this student. Raises UserError for one that cannot be."""

    def __init__(
        self, path: Path, sha256: str | None, policy: "Policy", asked: Sequence[prompts.Prompt]
    ) -> None:
        self.path, self.sha256, self.policy = path, sha256, policy
        self.asked = {prompt.prompt: prompt for prompt in asked}
        self.marks = prerendered.marks(policy.tokenizer)
        self.known = set(np.flatnonzero(~policy.unused_vocab_mask.cpu().numpy()).tolist())
        self.longest = policy.context
        self.lead = templates.lead(policy.tokenizer)
        self.rendered: dict[str, list[int]] = {}  # prompt_id: by the student's chat template
        self.rendered_otherwise = 0

    def responses(self) -> Iterator[Response]:
        samples, taken = Counter[str](), set[str]()
        self.rendered_otherwise = 0
        for row in read(self.path, self.sha256):
            parsed = problem(row)
            prompt = self.asked.get(parsed.prompt)
            if prompt is None:
                continue
            prerendered.refuse(row.where, parsed.messages, self.marks)
            if prompt.messages != parsed.messages:
                raise row.wrong(("messages", "prompt"), parsed.messages, _same(prompt))
            sample = samples[prompt.prompt_id]
            samples[prompt.prompt_id] += 1
            name = name_of(row, f"{prompt.prompt_id}-{sample}")
            once(row, name, taken)
            prompt_ids = self._prompt_ids(row, prompt)
            token_ids = self._token_ids(row, prompt_ids)
            self._same_prompt(row, parsed, prompt_ids)
            check_values(row, len(token_ids))
            length = len(prompt_ids) + len(token_ids)
            if self.longest and length > self.longest:
                limit = f"at most {self.longest} with the prompt, which is all the student reads"
                raise refused(row, "response", f"{length} tokens", limit)
            yield Response(row, prompt, name, sample, prompt_ids, token_ids)

    def _prompt_ids(self, row: Row, prompt: prompts.Prompt) -> list[int]:
        if prompt.prompt_id not in self.rendered:
            self.rendered[prompt.prompt_id] = self._rendered(row, prompt)
        own = self.rendered[prompt.prompt_id]
        if all(row.values.get(name) is None for name in PROMPT_IDS):
            return own
        given = self._ids(row, PROMPT_IDS)
        self.rendered_otherwise += given != own
        return given

    def _rendered(self, row: Row, prompt: prompts.Prompt) -> list[int]:
        """Render by the student's template. Raises UserError in words that fit an import."""
        if self.policy.tokenizer.chat_template is None:
            raise UserError(
                f"{row.where}: --student has no chat template, wanted one: chat_template.jinja "
                "beside its tokenizer.json. Write it there."
            )
        try:
            return self.policy.prompt_ids(prompt.messages)
        except UserError as error:  # what templates.render advises are keys of params.yaml
            roles = ", ".join(x["role"] for x in prompt.messages)
            wanted = (
                f"messages that the chat template of --student takes: {error.__cause__ or error}"
            )
            raise refused(row, "messages", f"the roles {roles}", wanted) from error

    def _same_prompt(self, row: Row, problem: Problem, ids: list[int]) -> None:
        """A text beside messages is theirs, or what the student reads as it was rendered."""
        text = row.values.get("prompt")
        if not isinstance(text, str) or text in (problem.prompt, problem.messages[-1]["content"]):
            return
        encode, decode = self.policy.tokenizer.encode, self.policy.tokenizer.decode
        if text != decode(ids) and ids != list(encode(text, add_special_tokens=False)):
            wanted = (
                f"the text of `messages`, or what the student reads, {decode(ids)[:80]!r}: leave "
                "it out, or give the prompt_token_ids that it was rendered to"
            )
            raise refused(row, "prompt", repr(text[:80]), wanted)

    def _token_ids(self, row: Row, prompt_ids: list[int]) -> list[int]:
        """The response with its end, from ids or text. Raises UserError where the two differ."""
        if all(row.values.get(name) is None for name in IDS):
            return self._encoded(row, prompt_ids)
        ids, ends = self._ids(row, IDS), self.policy.ends
        shown = f"an end of a turn, {turn_ends.named(self.policy.tokenizer, ends)},"
        early = [at for at, token in enumerate(ids[:-1]) if token in ends]
        if early:
            wanted = f"{shown} as the last one alone: cut what follows it"
            raise refused(
                row, "token_ids", f"id {ids[early[0]]} at {early[0]} of {len(ids)}", wanted
            )
        reason = row.values.get("finish_reason")
        if reason is not None and reason != ("stop" if ids[-1] in ends else "length"):
            wanted = f"stop exactly where the last of token_ids is {shown}"
            raise row.wrong(("finish_reason",), reason, f"{wanted}; here it is {ids[-1]}")
        if any(row.values.get(name) is not None for name in TEXT):
            self._same_text(row, ids)
        return ids

    def _same_text(self, row: Row, ids: list[int]) -> None:
        text, decoded = row.first(*TEXT), self.policy.decode(ids)
        if text not in (decoded, self.policy.tokenizer.decode(ids)):
            wanted = f"what token_ids decode to with the student's tokenizer, {decoded[:80]!r}"
            raise row.wrong(TEXT, text, wanted)

    def _encoded(self, row: Row, prompt_ids: list[int]) -> list[int]:
        """Ids of a text behind its prompt."""
        text, reason = row.first(*TEXT), reason_of(row)
        if not isinstance(text, str):
            raise row.wrong(TEXT, text, "text")
        lead = "" if text[:1].isspace() else self.lead
        ids = encode_after(self.policy.tokenizer.backend_tokenizer, prompt_ids, lead + text)
        behind = decode_after(self.policy.decode, prompt_ids, ids)
        if text not in (behind, behind.removeprefix(lead), self.policy.decode(ids)):
            wanted = f"what its own tokens decode to, {behind[:80]!r}: give token_ids"
            raise row.wrong(TEXT, text, wanted)
        ids += [self.policy.ends[0]] if reason == "stop" else []
        if not ids:
            raise row.wrong(TEXT, text, "at least one token")
        return ids

    def _ids(self, row: Row, names: tuple[str, ...]) -> list[int]:
        found = ids_of(row, names)
        strange = [x for x in found if x not in self.known]
        if strange:
            wanted = f"ids of the student's {len(self.known)} tokens"
            raise refused(row, names[0], f"{strange[:5]}", wanted)
        return found


def _same(prompt: prompts.Prompt) -> str:
    return f"the same messages wherever the text is the same: {prompt.messages}"


def _table(
    policy: "Policy", block: list[Response], batch_tokens: int, gaps: Gaps, bar: Any
) -> pa.Table:
    from pipeline.engines.scoring_pass import exact

    contexts, responses = [x.prompt_ids for x in block], [x.token_ids for x in block]
    scored = {}
    for index, logp_T, entropy_T in exact(policy, contexts, responses, batch_tokens):
        scored[index] = (logp_T, entropy_T)
        bar.update()
    lines = [_line(policy, x, *scored[i]) for i, x in enumerate(block)]
    for x, line in zip(block, lines, strict=True):
        theirs = x.row.values.get("logprobs")
        if theirs is not None:
            gaps.add(theirs, line["logprobs"])
    return pa.Table.from_pylist(lines, schema=schemas.ROLLOUTS)


def _line(
    policy: "Policy", x: Response, logp_T: np.ndarray, entropy_T: np.ndarray
) -> dict[str, Any]:
    reward = x.row.values.get("reward")
    return {
        "rollout_id": x.rollout_id,
        "prompt_id": x.prompt.prompt_id,
        "sample": x.sample,
        "round": 1,
        "prompt_token_ids": x.prompt_ids,
        "token_ids": x.token_ids,
        "logprobs": logp_T,
        "entropies": entropy_T,
        "text": policy.decode(x.token_ids),
        "finish_reason": "stop" if x.token_ids[-1] in policy.ends else "length",
        "reward": None if reward is None else float(reward),
    }
