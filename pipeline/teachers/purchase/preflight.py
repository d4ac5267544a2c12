"""`omniopd teacher check`: what must hold of a teacher before money is spent on its answers.

Two probes of seven samples together: a count that must go on where it stops, and the beginning of
a story, whose continuations must differ. One sample of the story is asked for three times more,
where the provider takes a seed: equal answers, unless other models or builds share the name.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from tabulate import tabulate

from pipeline.core.errors import UserError
from pipeline.engines.asks import Ask, Draw
from pipeline.judgments.keys import Prompt, seed_for
from pipeline.judgments.ledger import Entry
from pipeline.teachers import continuations
from pipeline.teachers.capabilities import OWN, TERMS
from pipeline.teachers.hosted import Hosted
from pipeline.teachers.protocol import Continuation
from pipeline.teachers.purchase.budget import Budget

LIMIT = 24  # tokens of a probe's continuation
COUNT = ("Count from 1 to 40 in digits, separated by commas. Write nothing else.", "1, 2, 3, 4, 5,")
NEXT = "6"
STORY = ("Write a short story about a lighthouse.", "The old keeper climbed the stairs and")
SAMPLES = {0: 3, 1: 4}  # of each probe
REPEATS = 3  # of one more sample of the story, with one seed
THINKS = re.compile(
    r"\s*(<(think|thinking|thought|reasoning|seed:think)>|\[THINK\]|<\|channel\|>analysis|◁think▷)"
    r"|.*</(think|thinking|thought|reasoning|seed:think)>",
    re.I | re.S,
)
log = logging.getLogger("omniopd")


@dataclass(frozen=True)
class Finding:
    what: str
    holds: bool
    found: str
    warns: bool = False  # it holds, and is to be looked at


@dataclass(frozen=True)
class Verdict:
    teacher: str
    findings: list[Finding]

    @property
    def passed(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def __str__(self) -> str:
        rows = [(_state(f), f.what, f.found) for f in self.findings]
        end = "It may be used." if self.passed else "It may not be used like this."
        return f"teacher {self.teacher}\n{tabulate(rows, tablefmt='plain')}\n{end}"


def check(teacher: Hosted, budget: Budget, today: date | None = None) -> Verdict:
    """Ask the two probes, live, and judge the answers. Raises UserError where a call fails."""
    start = time.monotonic()
    prefixes = {0: COUNT[1], 1: STORY[1]}
    prompts = {
        i: teacher.prompt([{"role": "user", "content": problem}], _ids(teacher, prefix), prefix)
        for i, (problem, prefix) in enumerate((COUNT, STORY))
    }
    draws = [
        Draw(i, s, seed_for(prompts[i], s) if teacher.takes_seed else None, f"check-{i}-{s}")
        for i, samples in SAMPLES.items()
        for s in range(samples)
    ]
    asks = [Ask(prompts, draws), *_repeats(teacher, prompts)]
    answers: dict[Draw, Continuation] = {}
    requests, tokens, usd, longest = 0, 0, 0.0, 0
    live = teacher.live()
    for found in live.answer(asks, LIMIT, budget):
        answers |= found.continuations
        # the mean of a reply: the share of each of its samples is told from its length of text
        written = sum(answer.completion_tokens for answer in found.continuations.values())
        longest = max(longest, round(written / len(found.continuations)))
        requests, tokens, usd = requests + found.requests, tokens + found.tokens, usd + found.usd
        paid = Entry(requests=found.requests, tokens=found.tokens, usd=found.usd)
        with budget.settling():
            budget.store.enter(paid)
            budget.arrived(found.requests, found.reserved, found.usd)
    seconds = time.monotonic() - start
    counts, stories = (
        [_text(teacher, prefixes[i], answers[d]) for d in draws if d.position == i] for i in (0, 1)
    )
    findings = [
        _continues(counts, teacher),
        _differ(stories),
        _thinks(list(answers.values())),
        _limit(longest, list(answers.values())),
        _model(teacher, list(answers.values())),
        *_one_model(teacher, [answers[d].text for ask in asks[1:] for d in ask.draws]),
        *_one_system(list(answers.values())),
        _retirement(teacher, today or date.today()),
        Finding(
            "price and pace",
            True,
            f"{requests} requests, {tokens} tokens, "
            + (f"${usd:.5f}" if teacher.config.price else "no price in params.yaml")
            + f", {seconds:.1f} s",
        ),
    ]
    shown = f"{teacher.name} ({teacher.provider} {teacher.model}, {teacher.continuation})"
    return Verdict(shown, findings)


def before_spending(
    teacher: Hosted, budget: Budget, accepted: tuple[str, ...]
) -> Callable[[], None]:
    """Return the function that a stage calls before the first answer that it has to buy."""

    def prepare() -> None:
        allowed(teacher, budget, accepted)
        if budget.store.checked(identity(teacher)):
            return
        verdict = check(teacher, budget)
        log.info(str(verdict))
        if not verdict.passed:
            raise UserError(
                f"teacher {teacher.name} did not pass its check (above). Fix what failed; "
                "`omniopd teacher check` checks it again, with --force it may be used all the same."
            )
        budget.store.passed(identity(teacher))

    return prepare


def allowed(teacher: Hosted, budget: Budget, accepted: tuple[str, ...]) -> None:
    """Raise UserError unless params.yaml accepts a hosted service's terms and can count dollars."""
    terms(teacher.provider, accepted)
    if budget.max_usd is not None and teacher.config.price is None:
        raise UserError(
            f"teach.max_usd is {budget.max_usd}, and teachers.{teacher.name} has no price. "
            "Add price: {input: ..., output: ...} in dollars for a million tokens."
        )
    if budget.max_usd is not None and not teacher.price(1.0, 1.0):
        said = (
            f"teach.max_usd is {budget.max_usd}, and by teachers.{teacher.name}.price everything "
            f"costs $0 by transport {teacher.asked.transport}: the limit would stop nothing"
        )
        if teacher.provider not in OWN:
            raise UserError(
                f"{said}. {teacher.provider} sends bills: write its price in dollars for a million "
                "tokens, or remove teach.max_usd and set teach.max_requests."
            )
        log.warning(f"{said}. Set teach.max_requests if it is to stop somewhere.")


def terms(provider: str, accepted: tuple[str, ...]) -> None:
    """Raise UserError unless a hosted service's terms are accepted."""
    if provider not in OWN and provider not in accepted:
        raise UserError(
            f"teach.accept_terms: {provider} is not in it, found {sorted(accepted)}, wanted it "
            "there. Some providers forbid training other models on their output: read "
            f"{TERMS[provider]}, then set teach.accept_terms: {provider}."
        )


def identity(teacher: Hosted) -> str:
    """Hash of what a check is about; another server or mode is checked by itself."""
    values: list[Any] = [teacher.provider, teacher.model, teacher.continuation, teacher.sampler()]
    values += [teacher.config.base_url, teacher.config.tokenizer]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _ids(teacher: Hosted, prefix: str) -> list[int]:
    if not teacher.same_tokens:
        return []
    return list(teacher.rendering.tokenizer.encode(prefix, add_special_tokens=False))


def _text(teacher: Hosted, prefix: str, found: Continuation) -> str:
    if teacher.continuation != "instruct":
        return found.text
    reason = continuations.failure(prefix, found.text, found.ended)
    return f"[{reason}] {found.text}" if reason else continuations.trim(prefix, found.text).text


def _state(finding: Finding) -> str:
    if not finding.holds:
        return "FAILED"
    return "WARNING" if finding.warns else "ok"


def _repeats(teacher: Hosted, prompts: dict[int, Prompt]) -> list[Ask]:
    """Requests for one sample of the story, several times; none where no seed is taken."""
    if not teacher.takes_seed:
        return []
    sample = SAMPLES[1]
    seed = seed_for(prompts[1], sample)
    return [Ask(prompts, [Draw(1, sample, seed, f"check-seed-{i}")]) for i in range(REPEATS)]


def _continues(counts: list[str], teacher: Hosted) -> Finding:
    going_on = [text for text in counts if text.lstrip(" ,\n").startswith(NEXT)]
    found = f"after {COUNT[1]!r}: " + " | ".join(repr(text[:24]) for text in counts)
    if not going_on and teacher.continuation == "prefill":
        found += ". If these start over, set teach.continuation: instruct"
    return Finding("continues the prefix", 2 * len(going_on) > len(counts), found)


def _differ(stories: list[str]) -> Finding:
    distinct = len(set(stories))
    found = f"{distinct} of {len(stories)} distinct, for example {stories[0][:40]!r}"
    return Finding("samples differ", distinct > len(stories) // 2, found)


def _thinks(answers: list[Continuation]) -> Finding:
    shown = next((answer.text for answer in answers if THINKS.match(answer.text)), None)
    beside = sum(answer.thought for answer in answers)
    if shown is not None:
        found = f"a think block in the answer, {shown[:40]!r}. "
    elif beside:
        found = f"reasoning beside {beside} of {len(answers)} answers. "
    else:
        return Finding("does not think", True, "no think block, no reasoning")
    return Finding(
        "does not think",
        False,
        found + "Switch thinking off in the server, or use a model that does not think",
    )


def _limit(longest: int, answers: list[Continuation]) -> Finding:
    cut = any(not answer.ended for answer in answers)
    found = f"{longest} tokens at most, {LIMIT} allowed"
    return Finding("token limit holds", longest <= LIMIT and cut, found)


def _model(teacher: Hosted, answers: list[Continuation]) -> Finding:
    returned = sorted({answer.model_returned for answer in answers})
    same = all(map(teacher.same_model, returned))
    found = f"{', '.join(returned)} for {teacher.model}"
    if not same and len(returned) == 1:
        found += f". If that is the one, pin it by that name: model: {returned[0]}"
    return Finding("the pinned model answers", same, found)


def _one_model(teacher: Hosted, texts: list[str]) -> list[Finding]:
    """Whether one model answered an equal request equally; nothing where none was repeated."""
    if not texts:
        return []
    distinct = len(set(texts))
    found = "equal" if distinct == 1 else f"{distinct} different answers"
    found = f"{len(texts)} times with one seed: {found}"
    if distinct > 1:
        found += (
            f", {texts[0][:24]!r} and {next(t for t in texts if t != texts[0])[:24]!r} among them. "
            "Another model behind this name, or a provider whose seeds promise nothing"
        )
    holds = distinct < len(texts) or not teacher.can.repeats
    return [Finding("one model answers", holds, found, warns=distinct > 1)]


def _one_system(answers: list[Continuation]) -> list[Finding]:
    """Whether one system served all answers; nothing where the provider does not say."""
    prints = sorted({answer.fingerprint for answer in answers if answer.fingerprint})
    if not prints:
        return []
    several = len(prints) > 1
    found = ", ".join(prints) + (". Answers of several builds are mixed" if several else "")
    return [Finding("system_fingerprint", True, found, warns=several)]


def _retirement(teacher: Hosted, today: date) -> Finding:
    retires = teacher.can.retires
    if retires is None:
        return Finding("retirement", True, "none announced that we know of")
    found = f"{retires}, then use {teacher.can.successor}"
    return Finding("retirement", today < retires, found)
