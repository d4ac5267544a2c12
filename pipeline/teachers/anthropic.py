"""Claude through Anthropic's own SDK: Messages, and Message Batches at half the price."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pipeline.params import AnthropicTeacher
from pipeline.teachers import Asked, api_keys, hosted, replies
from pipeline.teachers.calls import (
    Asking,
    Call,
    Choice,
    Refused,
    Reply,
    Result,
    Transient,
    clean,
    ended,
    missing_sdk,
    status_error,
)
from pipeline.teachers.capabilities import check

BUSY_TYPES = {"rate_limit_error", "timeout_error", "api_error", "overloaded_error"}


def teacher(config: AnthropicTeacher, name: str, asked: Asked, student: Path) -> hosted.Hosted:
    can = check(config.provider, config.model, asked.continuation, asked.temperature)
    adapter = Anthropic(config, hosted.asking(config, asked, can))
    return hosted.Hosted(config, name, asked, student, can, adapter)


@contextmanager
def errors() -> Iterator[None]:
    """The SDK's errors as ours."""
    import anthropic
    import httpx2

    try:
        yield
    except anthropic.APIStatusError as error:
        raise status_error(error.status_code, error.message, error.response.headers) from None
    except anthropic.APIConnectionError as error:
        reached = not isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
        raise Transient(f"{error} {str(error.__cause__ or '')[:200]}", reached=reached) from None
    except json.JSONDecodeError as error:
        raise replies.broken(error.doc) from None
    except (
        anthropic.AnthropicError,
        httpx2.HTTPError,
        ValueError,
    ) as error:  # half a reply
        raise Transient(f"not a whole reply: {error}") from None


class Anthropic:
    batch_bytes = 200_000_000  # of at most 256 MB

    def __init__(self, config: AnthropicTeacher, asking: Asking) -> None:
        self.config, self.asking = config, asking

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        try:
            import anthropic
        except ModuleNotFoundError as error:
            raise missing_sdk("anthropic", "anthropic") from error
        async with anthropic.AsyncAnthropic(
            api_key=api_keys.api_key(self.config),
            base_url=self.config.base_url,
            max_retries=0,
            timeout=self.config.timeout_seconds,
            # by default it follows a redirect wherever that leads
            http_client=anthropic.DefaultAsyncHttpxClient(
                timeout=self.config.timeout_seconds, follow_redirects=False
            ),
        ) as client:
            yield client

    def body(self, call: Call) -> dict[str, Any]:
        """The request. Thinking is off because nothing switches it on."""
        messages = call.messages
        system = [m["content"] for m in messages if m["role"] == "system"]
        return {
            "model": self.asking.model,
            "max_tokens": call.limit,
            "messages": [m for m in messages if m["role"] != "system"],
            **({"system": "\n\n".join(system)} if system else {}),
            **self.asking.sampler,
        }

    async def send(self, client: Any, call: Call) -> Reply:
        with errors():
            raw = await client.post("/v1/messages", body=self.body(call), cast_to=object)
        return self.parse(raw)

    def parse(self, raw: Any) -> Reply:
        """Raises Transient for half of a reply or a busy server, Refused for another shape."""
        raw = replies.opened(raw)
        try:
            text = "".join(block["text"] for block in raw["content"] if block["type"] == "text")
            reason, usage = raw["stop_reason"], raw["usage"]
            choice = Choice(
                0,
                clean(text),
                ended(
                    reason,
                    {"end_turn", "stop_sequence", "refusal"},
                    {"max_tokens", "model_context_window_exceeded"},
                ),
                failure="refusal" if reason == "refusal" else None,
            )
            cached = ("cache_read_input_tokens", "cache_creation_input_tokens")
            read = [replies.count(usage.get(name)) or 0 for name in ("input_tokens", *cached)]
            written = replies.count(usage.get("output_tokens"))
            return Reply([choice], str(raw["model"]), sum(read), written)
        except (AttributeError, KeyError, TypeError) as error:
            raise Refused(f"not a message: {error!r} in {replies.shown(raw)}") from None

    async def submit(self, client: Any, calls: Mapping[str, Call]) -> str:
        requests = [{"custom_id": key, "params": self.body(call)} for key, call in calls.items()]
        with errors():
            batch = await client.messages.batches.create(requests=requests)
        return str(batch.id)

    async def collect(self, client: Any, batch: str) -> dict[str, Result] | None:
        results: dict[str, Result] = {}
        with errors():
            found = await client.messages.batches.retrieve(batch)
            if found.processing_status != "ended":
                return None
            if found.results_url is None:
                raise Refused(f"batch {batch}: its results are no longer kept", "lost")
            async for row in await client.messages.batches.results(batch):
                results[row.custom_id] = self._result(row.result)
        return results

    def _result(self, result: Any) -> Result:
        if result.type == "errored":
            error = result.error.error
            failed = Transient if error.type in BUSY_TYPES else Refused
            return failed(f"{error.type}: {error.message}")
        if result.type == "canceled":
            return Refused("the batch was cancelled")
        if result.type != "succeeded":
            return Transient(result.type)  # expired
        try:
            return self.parse(result.message.model_dump(mode="json"))
        except (Transient, Refused) as error:
            return error
