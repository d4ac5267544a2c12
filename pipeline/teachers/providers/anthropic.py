"""Claude through Anthropic's own SDK: Messages, and Message Batches at half the price."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.teachers import AnthropicTeacher
from pipeline.teachers import hosted, replies
from pipeline.teachers.capabilities import check
from pipeline.teachers.protocol import Asked
from pipeline.teachers.wire import api_keys
from pipeline.teachers.wire.calls import (
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

    from pipeline.teachers.wire import bodies

    try:
        yield
    except anthropic.APIStatusError as error:
        raise status_error(error.status_code, error.message, error.response.headers) from None
    except (anthropic.APIConnectionError, httpx2.HTTPError) as error:
        raise bodies.broken(error) from None
    except json.JSONDecodeError as error:
        raise replies.broken(error.doc) from None
    except (anthropic.AnthropicError, ValueError) as error:  # half a reply
        raise Transient(f"not a whole reply: {error}") from None
    except replies.MISSHAPEN as error:
        raise replies.misshapen(error) from None


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
        from pipeline.teachers.wire import bodies

        async with anthropic.AsyncAnthropic(
            api_key=api_keys.api_key(self.config),
            base_url=self.config.base_url,
            max_retries=0,
            timeout=self.config.timeout_seconds,
            http_client=bodies.Client(self.config.timeout_seconds),
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
            told = [usage[name] for name in cached if usage.get(name) is not None]
            read = replies.total([usage.get("input_tokens"), *told])
            return Reply(
                [choice], str(raw["model"]), read, replies.count(usage.get("output_tokens"))
            )
        except replies.MISSHAPEN as error:
            raise replies.misshapen(error, raw) from None

    async def submit(self, client: Any, calls: Mapping[str, Call]) -> str:
        requests = [{"custom_id": key, "params": self.body(call)} for key, call in calls.items()]
        with errors():
            batch = await client.messages.batches.create(requests=requests)
            return replies.known_id(getattr(batch, "id", None))

    async def collect(self, client: Any, batch: str) -> dict[str, Result] | None:
        import httpx2

        with errors():
            found = await client.messages.batches.retrieve(batch)
            state = getattr(found, "processing_status", None)
            if state in ("in_progress", "canceling"):
                return None
            if state != "ended":
                raise Transient(f"batch {batch}: found state {replies.shown(state)}, wanted one")
            if found.results_url is None:
                raise Refused(f"batch {batch}: its results are no longer kept", "lost")
            path = f"/v1/messages/batches/{batch}/results"
            return replies.rows(
                (await client.get(path, cast_to=httpx2.Response)).text, self._result
            )

    def _result(self, row: dict[str, Any]) -> Result:
        result = row["result"]
        match result["type"]:
            case "succeeded":
                return self.parse(result["message"])
            case "errored":
                error = result["error"]["error"]
                said = f"{error['type']}: {error['message']}"
                busy = error["type"] in BUSY_TYPES
                return Transient(said, answered=True) if busy else Refused(said)
            case "canceled":
                return Refused("the batch was cancelled")
        return Transient(replies.shown(result["type"]), answered=True)  # expired
