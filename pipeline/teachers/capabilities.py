"""Capabilities of each provider and model family, with where and when that was read.

A row is looked up by provider and the beginning of the model's id; the first that matches counts.
When a provider changes, change the row: nothing else knows providers by name.
"""

import re
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pipeline.config.params import Mode
from pipeline.core.errors import UserError

OPEN_MODES: tuple[Mode, ...] = ("completions", "prefill", "instruct")
CHAT: tuple[Mode, ...] = ("instruct",)
PREFILL: tuple[Mode, ...] = ("prefill", "instruct")


@dataclass(frozen=True)
class Capability:
    family: str  # regular expression that the model's id begins with
    modes: tuple[Mode, ...]  # ways of continuing a prefix that it takes
    source: str
    read: date  # when the source was read, or the server run
    most: int = 1  # samples in one request (n)
    seeds: bool = False  # takes a seed
    hottest: float | None = 2.0  # highest temperature; None: takes no temperature, samples at 1
    sampler: dict[str, Any] = field(default_factory=dict)  # sent besides temperature
    extra: dict[str, Any] = field(default_factory=dict)  # sent always: thinking off
    prefill: dict[str, Any] = field(default_factory=dict)  # sent with a prefilled message
    prefill_message: dict[str, Any] = field(default_factory=dict)  # and inside that message
    echoes: bool = False  # the reply begins with the prefilled text
    takes_ids: bool = False  # takes a prompt of token ids in mode completions
    token_ids: bool = False  # returns the answer's token ids
    repeats: bool = False  # an equal seed gives an equal answer
    first_alone: bool = False  # usage has the completion tokens of choice 0 alone, whatever n
    batch: bool = False  # has a batch service
    retires: date | None = None
    successor: str = ""


_RAW = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_LLAMA_CPP_OFF = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "top_n_sigma": -1.0}
_LLAMA_CPP_OFF |= {"repeat_penalty": 1.0, "dry_multiplier": 0.0, "xtc_probability": 0.0}
_LLAMA_CPP_OFF |= {"mirostat": 0, "dynatemp_range": 0.0}
_PLAIN = {"top_p": 1.0}
_NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
_GO_ON = {"add_generation_prompt": False, "continue_final_message": True}
_READ = date(2026, 11, 23)

TABLE: dict[str, list[Capability]] = {
    "vllm": [
        Capability(
            "",
            OPEN_MODES,
            "run: vLLM 0.32.0 (choice i of a request has its seed plus i)",
            _READ,
            most=128,
            seeds=True,
            sampler=_RAW | {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
            extra=_NO_THINKING,
            prefill=_GO_ON,
            takes_ids=True,
            token_ids=True,
            repeats=True,
        )
    ],
    "sglang": [
        Capability(
            "",
            OPEN_MODES,
            "docs.sglang.ai, OpenAI-compatible APIs; sgl-project/sglang/pull/4226",
            _READ,
            most=128,
            sampler=_RAW | {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
            extra=_NO_THINKING,
            prefill=_GO_ON,
            takes_ids=True,
        )
    ],
    "llama.cpp": [
        Capability(
            "",
            OPEN_MODES,
            "run: llama.cpp's server, build of 2026-10: a prefilled text comes back in the reply; "
            "choice i of a request has its seed plus i; n is at most its slots (-np, 4 if unset); "
            "usage has choice 0 alone, the end of an answer is a token of it",
            _READ,
            most=4,
            seeds=True,
            sampler=_RAW | _LLAMA_CPP_OFF,
            extra=_NO_THINKING,
            echoes=True,
            takes_ids=True,
            repeats=True,
            first_alone=True,
        )
    ],
    "other": [
        Capability(
            "",
            OPEN_MODES,
            "nothing is known of this server: `omniopd teacher check` tries it",
            _READ,
            seeds=True,
            sampler=_PLAIN,
        )
    ],
    "openai": [
        Capability(
            r"gpt-4|chatgpt-4|gpt-3\.5",
            CHAT,
            "OpenAI API reference; no true prefill: guidance-ai/guidance/pull/775",
            _READ,
            most=128,
            seeds=True,
            sampler=_RAW,
            batch=True,
        ),
        Capability(
            r"(gpt-5\.[1-9]|gpt-[6-9])(?!.*-(pro|codex|chat))",
            CHAT,
            "OpenAI API reference: temperature only where the reasoning effort is none, which pro, "
            "codex and chat do not take (egoist/chatwise-releases/issues/1257)",
            _READ,
            most=128,
            sampler=_PLAIN,
            extra={"reasoning_effort": "none"},
            batch=True,
        ),
    ],
    "openrouter": [
        Capability(
            "",
            PREFILL,
            "openrouter.ai/docs/api-reference/overview; prefill depends on the upstream",
            _READ,
            # top_k, min_p and repetition_penalty are off unless sent; required, they would rule out
            # every upstream that does not take them
            sampler=_RAW,
            extra={"reasoning": {"enabled": False}, "provider": {"require_parameters": True}},
        )
    ],
    "deepseek": [
        Capability(
            "deepseek-chat",
            PREFILL,
            "api-docs.deepseek.com/guides/chat_prefix_completion: base_url must end in /beta",
            _READ,
            sampler=_RAW,
            prefill_message={"prefix": True},
        )
    ],
    "mistral": [
        Capability(
            r"(open-)?mi[sx]tral-|ministral-|codestral-|devstral-",  # magistral thinks
            PREFILL,
            "docs.mistral.ai: prefix, and n with the input billed once",
            _READ,
            most=8,
            hottest=1.5,
            sampler=_RAW,
            prefill_message={"prefix": True},
        )
    ],
    "groq": [
        Capability(
            r"llama|meta-llama/|gemma|moonshotai/",  # qwen3 and gpt-oss think
            PREFILL,
            "console.groq.com/docs/prefilling",
            _READ,
            seeds=True,
            sampler=_PLAIN,
        )
    ],
    "anthropic": [
        Capability(
            r"claude-(3|(haiku|sonnet|opus)-4-?[0-5]?(-20|$))",
            PREFILL,
            "platform.claude.com, prefill; temperature and top_p not together since Opus 4.1",
            _READ,
            hottest=1.0,
            batch=True,
        ),
        Capability(
            r"claude-(sonnet|opus)-4-6",
            CHAT,
            "platform.claude.com migration guide: prefill answers 400 from 4.6",
            _READ,
            hottest=1.0,
            batch=True,
        ),
        Capability(
            "claude-",
            CHAT,
            "Opus 4.7 and later models refuse temperature with 400 (sipeed/picoclaw/issues/2939)",
            _READ,
            hottest=None,
            batch=True,
        ),
    ],
    "google": [
        Capability(
            r"gemini-2\.5-flash($|-\d)",
            PREFILL,
            "ai.google.dev/gemini-api/docs (deprecations); n: discuss.ai.google.dev/t/145229",
            _READ,
            most=8,
            seeds=True,
            sampler=_PLAIN,
            extra={"thinking_config": {"thinking_budget": 0}},
            batch=True,
            retires=date(2026, 12, 1),
            successor="gemini-3.5-flash-lite in mode instruct, or gemini-3.5-flash in mode prefill",
        ),
        Capability(
            r"gemini-2\.5-flash-lite",
            CHAT,
            "ai.google.dev/gemini-api/docs/thinking",
            _READ,
            most=8,
            seeds=True,
            sampler=_PLAIN,
            extra={"thinking_config": {"thinking_budget": 0}},
            batch=True,
        ),
        Capability(
            r"gemini-3\.5-flash($|-\d)",
            PREFILL,
            "LibreChat-AI/agents/pull/323: prefill answers 200; n is refused from 3.0",
            _READ,
            seeds=True,
            sampler=_PLAIN,
            extra={"thinking_config": {"thinking_level": "minimal"}},
            batch=True,
        ),
        Capability(
            r"gemini-[3-9](?!.*-pro)",
            CHAT,
            "cline/cline/issues/12521: prefill answers 400 in these and all future models; pro "
            "takes no thinking level minimal (ai.google.dev/gemini-api/docs/thinking)",
            _READ,
            seeds=True,
            sampler=_PLAIN,
            extra={"thinking_config": {"thinking_level": "minimal"}},
            batch=True,
        ),
    ],
}
OWN = {"vllm", "sglang", "llama.cpp", "other"}  # servers that people run themselves
TERMS = {
    "openai": "openai.com/policies",
    "openrouter": "openrouter.ai/terms and those of the upstream provider",
    "deepseek": "deepseek.com, terms of use",
    "mistral": "mistral.ai/terms",
    "groq": "groq.com/terms-of-use",
    "anthropic": "anthropic.com/legal",
    "google": "ai.google.dev/gemini-api/terms",
}


def capability(provider: str, model: str) -> Capability:
    """The row of a model. Raises UserError if its family is not in the table."""
    rows = TABLE[provider]
    for row in rows:
        if re.match(row.family, model):
            return row
    raise UserError(
        f"teachers: {provider} model {model!r} is not in pipeline/teachers/capabilities.py, which "
        f"knows {', '.join(row.family for row in rows)}. Add a row for its family, or correct the "
        "id: models that cannot switch thinking off are left out on purpose."
    )


def check(provider: str, model: str, mode: Mode, temperature: float) -> Capability:
    """The row of a model that can be asked like this. Raises UserError naming what it takes."""
    row = capability(provider, model)
    if mode not in row.modes:
        raise UserError(
            f"teach.continuation: found {mode}, but {model} takes {' or '.join(row.modes)} "
            f"({row.source}). Set teach.continuation: {row.modes[0]}."
        )
    if row.hottest is None and temperature != 1:
        raise UserError(
            f"teach.temperature: found {temperature}, but {model} takes none and samples at 1 "
            f"({row.source}). Set teach.temperature: 1.0."
        )
    if row.hottest is not None and temperature > row.hottest:
        raise UserError(
            f"teach.temperature: found {temperature}, {model} takes at most {row.hottest} "
            f"({row.source}). Lower it."
        )
    return row
