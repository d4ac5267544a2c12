"""Gemini through Google's own SDK: generateContent, and batch mode at half the price."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.teachers import GoogleTeacher
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

BLOCKED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"}

RUNNING = {"UNSPECIFIED", "QUEUED", "PENDING", "RUNNING", "CANCELLING", "PAUSED", "UPDATING"}
FLEETING = {"OTHER", "FINISH_REASON_UNSPECIFIED"}  # for reasons unknown: another try may do
REFUSED = {1, 3, 5, 7, 9, 11, 12, 16}  # codes of google.rpc.Code that another try would meet again


def teacher(config: GoogleTeacher, name: str, asked: Asked, student: Path) -> hosted.Hosted:
    can = check(config.provider, config.model, asked.continuation, asked.temperature)
    adapter = Google(config, hosted.asking(config, asked, can))
    return hosted.Hosted(config, name, asked, student, can, adapter)


@contextmanager
def errors() -> Iterator[None]:
    """The SDK's errors, and those of the HTTP clients that it lets through, as ours."""
    import httpx2
    from google.genai import errors as google

    from pipeline.teachers.wire import bodies

    try:
        yield
    except google.APIError as error:
        headers = getattr(error.response, "headers", None) or {}
        raise status_error(error.code, str(error.message), headers) from None
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        raise bodies.broken(error) from None
    except json.JSONDecodeError as error:
        raise replies.broken(error.doc) from None
    except ValueError as error:
        raise Transient(f"not a whole reply: {error}") from None
    except replies.MISSHAPEN as error:
        raise replies.misshapen(error) from None


class Google:
    batch_bytes = 15_000_000  # requests are sent inline: at most 20 MB

    def __init__(self, config: GoogleTeacher, asking: Asking) -> None:
        self.config, self.asking = config, asking

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        try:
            from google import genai
        except ModuleNotFoundError as error:
            raise missing_sdk("google-genai", "google") from error
        from pipeline.teachers.wire import bodies

        key = api_keys.api_key(self.config)  # not Vertex, whatever the environment says
        async with bodies.Client(self.config.timeout_seconds) as http:
            options = genai.types.HttpOptions(
                base_url=self.config.base_url,
                api_version="v1beta",  # the one whose reference has thinkingConfig and batches
                timeout=round(1000 * self.config.timeout_seconds),
                retry_options=genai.types.HttpRetryOptions(attempts=1),
                httpx_async_client=http,
            )
            client = genai.Client(vertexai=False, api_key=key, http_options=options)
            try:
                yield client.aio
            finally:
                await client.aio.aclose()

    def body(self, call: Call) -> dict[str, Any]:
        """The keyword arguments of generate_content."""
        roles = {"user": "user", "assistant": "model"}
        system = [m["content"] for m in call.messages if m["role"] == "system"]
        config = {**self.asking.sampler, "max_output_tokens": call.limit}
        if len(call.draws) > 1:
            config["candidate_count"] = len(call.draws)
        if call.draws[0].seed is not None:
            config["seed"] = call.draws[0].seed
        if system:
            config["system_instruction"] = "\n\n".join(system)
        contents = [
            {"role": roles[m["role"]], "parts": [{"text": m["content"]}]}
            for m in call.messages
            if m["role"] != "system"
        ]
        return {"model": self.asking.model, "contents": contents, "config": config}

    async def send(self, client: Any, call: Call) -> Reply:
        with errors():
            raw = await client.models.generate_content(**self.body(call))
            return self.parse(raw)

    def parse(self, raw: Any) -> Reply:
        """Raises Refused where the reply has not the shape of its kind."""
        usage = raw.usage_metadata
        if not raw.model_version:  # the reply itself is not shown: it has the headers
            raise Refused("a reply that names no model_version: it is not of this API")
        blocked = raw.prompt_feedback is not None and raw.prompt_feedback.block_reason is not None
        choices = [_choice(i, candidate) for i, candidate in enumerate(raw.candidates or [])]
        return Reply(
            [Choice(0, "", True, failure="refusal")] if blocked and not choices else choices,
            raw.model_version.removeprefix("models/"),
            None if usage is None else replies.count(usage.prompt_token_count),
            None if usage is None else _written(usage),
        )

    async def submit(self, client: Any, calls: Mapping[str, Call]) -> str:
        requests = []
        for key, call in calls.items():
            body = self.body(call)
            requests.append(
                {"contents": body["contents"], "config": body["config"], "metadata": {"key": key}}
            )
        with errors():
            batch = await client.batches.create(model=self.asking.model, src=requests)
            return replies.known_id(getattr(batch, "name", None))

    async def collect(self, client: Any, batch: str) -> dict[str, Result] | None:
        with errors():
            found = await client.batches.get(name=batch)
            state = found.state.name.removeprefix("JOB_STATE_") if found.state else None
            if state == "EXPIRED":
                return {}
            if state in ("FAILED", "CANCELLED"):
                raise Refused(f"batch {batch} {state.lower()}: {found.error}", "ended")
            if state in RUNNING:
                return None
            if state not in ("SUCCEEDED", "PARTIALLY_SUCCEEDED"):
                raise Transient(f"batch {batch}: found state {replies.shown(state)}, wanted one")
            rows = found.dest.inlined_responses if found.dest else None
            if rows is None:
                raise Refused(f"batch {batch}: its results are no longer kept", "lost")
            return {
                str((row.metadata or {}).get("key", "")): replies.row(partial(self._result, row))
                for row in rows
            }

    def _result(self, row: Any) -> Result:
        if row.response is None:
            if row.error is None:
                return Transient("no reply")
            said = f"code {row.error.code}: {row.error.message}"
            return Refused(said) if row.error.code in REFUSED else Transient(said, answered=True)
        return self.parse(row.response)


def _written(usage: Any) -> int | None:
    """Tokens written and thought; None where one of the two cannot be."""
    parts = (usage.candidates_token_count, usage.thoughts_token_count)
    return replies.total([part for part in parts if part is not None])


def _choice(i: int, candidate: Any) -> Choice:
    reason = candidate.finish_reason.name if candidate.finish_reason else None
    if reason in FLEETING:
        raise Transient(f"finish reason {reason}")
    parts = (candidate.content.parts or []) if candidate.content else []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    return Choice(
        candidate.index if candidate.index is not None else i,
        clean(text),
        ended(reason, {"STOP"} | BLOCKED, {"MAX_TOKENS"}),
        failure="refusal" if reason in BLOCKED else None,
    )
