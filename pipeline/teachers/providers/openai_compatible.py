"""Any server that speaks OpenAI's API: vLLM, SGLang, llama.cpp, OpenAI itself, OpenRouter, ..."""

import io
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.config.teachers import OpenAICompatibleTeacher
from pipeline.core.errors import UserError
from pipeline.teachers import hosted, replies
from pipeline.teachers.capabilities import Capability, check
from pipeline.teachers.protocol import Asked, Reason
from pipeline.teachers.wire import api_keys
from pipeline.teachers.wire.calls import (
    MISSING,
    Asking,
    Call,
    Choice,
    Refused,
    Reply,
    Result,
    Transient,
    clean,
    missing_sdk,
    status_error,
)

ENDPOINT = re.compile(r"/((chat/)?completions|responses)/?$")
REASONING = ("reasoning_content", "reasoning")  # where servers put what a model thought


@contextmanager
def errors(remedy: str | None = None) -> Iterator[None]:
    """The SDK's errors as ours; `remedy` is for an endpoint or an API that is not there."""
    import httpx2
    import openai

    from pipeline.teachers.wire import bodies

    try:
        yield
    except openai.APIStatusError as error:
        fault = status_error(error.status_code, error.message, error.response.headers)
        if isinstance(fault, Refused) and error.status_code in (404, 405):
            fault.remedy = remedy and f"{remedy} If that is right, correct the model's id."
        raise fault from None
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        raise bodies.broken(error) from None
    except json.JSONDecodeError as error:
        raise replies.broken(error.doc, remedy) from None
    except (openai.OpenAIError, ValueError) as error:  # half a reply
        raise Transient(f"not a whole reply: {error}") from None
    except replies.MISSHAPEN as error:
        raise replies.misshapen(error) from None


def teacher(
    config: OpenAICompatibleTeacher, name: str, asked: Asked, student: Path
) -> hosted.Hosted:
    if config.base_url is None and config.provider != "openai":
        raise UserError(f"teachers.{name}.base_url: found null, wanted the server's URL. Add it.")
    if config.base_url is not None:
        _check_url(name, config.base_url)
    can = check(config.provider, config.model, asked.continuation, asked.temperature)
    adapter = OpenAICompatible(config, hosted.asking(config, asked, can), can)
    return hosted.Hosted(config, name, asked, student, can, adapter)


def _check_url(name: str, url: str) -> None:
    """Raise UserError unless it can be the root of an API."""
    if end := ENDPOINT.search(url):
        raise UserError(
            f"teachers.{name}.base_url: found {url}, wanted the API's root, to which the endpoint "
            f"is added. Write base_url: {url[: end.start()]}"
        )


class OpenAICompatible:
    batch_bytes = 150_000_000  # a file of at most 200 MB

    def __init__(self, config: OpenAICompatibleTeacher, asking: Asking, can: Capability) -> None:
        self.config, self.asking, self.can = config, asking, can
        self.path = "/completions" if asking.mode == "completions" else "/chat/completions"
        self.root = (config.base_url or "").rstrip("/")
        bare = self.root and not urlsplit(self.root).path
        wanted = f"{self.root}/v1" if bare else "the API's root, as http://127.0.0.1:8000/v1"
        said = f"Look at base_url: found {self.root}, wanted {wanted}."
        self.remedy = said if self.root else None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise missing_sdk("openai", "openai") from error
        from pipeline.teachers.wire import bodies

        async with openai.AsyncOpenAI(
            api_key=api_keys.api_key(self.config),
            base_url=self.config.base_url,
            max_retries=0,
            timeout=self.config.timeout_seconds,
            http_client=bodies.Client(self.config.timeout_seconds),
        ) as client:
            yield client

    def body(self, call: Call) -> dict[str, Any]:
        """The request. Settings that are not OpenAI's own are the server's: nothing is dropped."""
        body = {"model": self.asking.model, **self.asking.sampler}
        if len(call.draws) > 1:
            body["n"] = len(call.draws)
        if call.draws[0].seed is not None:
            body["seed"] = call.draws[0].seed
        if self.asking.mode == "completions":
            body["prompt"] = list(call.prompt) if isinstance(call.prompt, tuple) else call.prompt
            body["max_tokens"] = call.limit
        else:
            body["messages"] = self._messages(call)
            own = self.config.provider == "openai"
            body["max_completion_tokens" if own else "max_tokens"] = call.limit
            body |= self.can.prefill if call.prefilled else {}
        if self.can.token_ids:
            body["return_token_ids"] = True
        return body

    def _messages(self, call: Call) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = [*call.messages]
        if call.prefilled:
            messages[-1] = messages[-1] | self.can.prefill_message
        return messages

    async def send(self, client: Any, call: Call) -> Reply:
        with errors(self.remedy):
            raw = await client.post(self.path, body=self.body(call), cast_to=object)
            reply = self.parse(raw)
        if self.can.echoes and self.asking.mode == "prefill":
            own = [replace(c, text=c.text.removeprefix(call.prefilled)) for c in reply.choices]
            reply = replace(reply, choices=own)
        if self.can.first_alone and self.config.tokenizer is None and len(reply.choices) > 1:
            own = [await self._tokenized(client, choice) for choice in reply.choices]
            reply = replace(reply, choices=own)
        return reply

    async def _tokenized(self, client: Any, choice: Choice) -> Choice:
        """The choice with its tokens as llama.cpp's own /tokenize counts them; those of the first
        and of one that was cut are known."""
        if choice.sample == 0 or not choice.ended:
            return choice
        url = f"{self.root.removesuffix('/v1')}/tokenize"
        text = {"content": choice.text, "add_special": False, "parse_special": False}
        remedy = f"{url} is needed as usage has one choice alone. Or set samples_per_request: 1."
        with errors(remedy):
            reply = replies.opened(await client.post(url, body=text, cast_to=object), remedy)
        if not isinstance(reply.get("tokens"), list):
            raise Refused(f"found {replies.shown(reply)}, wanted tokens", remedy=remedy)
        return replace(choice, tokens=len(reply["tokens"]))

    def parse(self, raw: Any) -> Reply:
        """Raises Transient for half of a reply or a busy server, Refused for another shape."""
        reply = replies.opened(raw, self.remedy)
        choices, model, usage = reply.get("choices"), reply.get("model"), reply.get("usage")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            said = f"no choices in {replies.shown(reply)}, wanted a list"
            raise Refused(said, remedy=self.remedy)
        if not isinstance(model, str) or not model:
            raise Refused(
                f"no model in {replies.shown(reply)}, wanted the id of the model that answered",
                remedy="Without it nobody knows whether it is the pinned one. Use a server, or a "
                "setting of it or of the proxy before it, that says.",
            )
        numbers = [choice.get("index") for choice in choices]
        if any(number is None for number in numbers):  # then they come in order
            numbers = list(range(len(choices)))
        told, print_ = usage if isinstance(usage, dict) else {}, reply.get("system_fingerprint")
        try:
            return Reply(
                [self._choice(int(i), choice) for i, choice in zip(numbers, choices, strict=True)],
                model,
                replies.count(told.get("prompt_tokens")),
                replies.count(told.get("completion_tokens")),
                str(print_)[:100] if print_ else None,
            )
        except replies.MISSHAPEN as error:
            raise replies.misshapen(error, reply) from None

    def _choice(self, index: int, choice: dict[str, Any]) -> Choice:
        message = choice.get("message") or {}
        content = choice["text"] if self.asking.mode == "completions" else message["content"]
        text = _joined(content)
        thought = any(_joined(message.get(name)).strip() for name in REASONING)
        thought = thought or (isinstance(content, list) and any(map(_thinks, content)))
        refused: Reason | None = None
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            refused, ended, text = "refusal", True, text or _joined(message.get("refusal"))
        else:
            ended = replies.stopped(choice)
        if thought and not text and not refused:
            raise Refused(
                f"reasoning and no answer in {replies.shown(message)}, wanted content",
                remedy="This model thinks. Switch that off, or use one that does not.",
            )
        ids = choice.get("token_ids")
        return Choice(
            index,
            clean(text),
            ended,
            None if ids is None else [int(i) for i in ids],
            refused,
            thought=thought,
        )

    async def submit(self, client: Any, calls: Mapping[str, Call]) -> str:
        lines = (
            json.dumps(
                {"custom_id": key, "method": "POST", "url": f"/v1{self.path}", "body": self.body(c)}
            )
            for key, c in calls.items()
        )
        file = io.BytesIO("\n".join(lines).encode())
        with errors():
            uploaded = await client.files.create(file=("calls.jsonl", file), purpose="batch")
            batch = await client.batches.create(
                input_file_id=uploaded.id, endpoint=f"/v1{self.path}", completion_window="24h"
            )
            return replies.known_id(getattr(batch, "id", None))

    async def collect(self, client: Any, batch: str) -> dict[str, Result] | None:
        with errors():
            state = await client.batches.retrieve(batch)
            if state.status in ("validating", "in_progress", "finalizing", "cancelling"):
                return None
            if state.status == "failed":
                raise Refused(f"batch {batch} failed: {state.errors}", "ended")
            if state.status not in ("completed", "expired", "cancelled"):
                said = f"found status {replies.shown(state.status)}, wanted one"
                raise Transient(f"batch {batch}: {said}")
            results: dict[str, Result] = {}
            for file in (state.output_file_id, state.error_file_id):
                if file:
                    text = (await client.files.content(file)).text
                    results |= replies.rows(text, self._result)
            if state.status == "cancelled":
                results[MISSING] = Refused(f"batch {batch} was cancelled")
        return results

    def _result(self, row: dict[str, Any]) -> Result:
        response = row.get("response")
        if response is None:
            return Transient(replies.shown(row["error"]), answered=True)  # expired, or never ran
        if response["status_code"] != 200:
            return status_error(int(response["status_code"]), str(response["body"]), {})
        return self.parse(response["body"])


def _joined(content: Any) -> str:
    """A text, also where it comes as a list of parts, some of them thought."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if not _thinks(part))
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content {content!r}")
    return content or ""


def _thinks(part: dict[str, Any]) -> bool:
    return part.get("type") in ("thinking", "reasoning")
