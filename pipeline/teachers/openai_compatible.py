"""Any server that speaks OpenAI's API: vLLM, SGLang, llama.cpp, OpenAI itself, OpenRouter, ..."""

import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params import OpenAICompatibleTeacher
from pipeline.teachers import Asked, Reason, hosted
from pipeline.teachers.calls import (
    MISSING,
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
from pipeline.teachers.capabilities import Capability, check


@contextmanager
def errors() -> Iterator[None]:
    """The SDK's errors as ours."""
    import httpx2
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise status_error(error.status_code, error.message, error.response.headers) from None
    except openai.APIConnectionError as error:
        reached = not isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
        raise Transient(f"{error} {str(error.__cause__ or '')[:200]}", reached=reached) from None
    except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:  # half a reply
        raise Transient(f"not a whole reply: {error}") from None


def teacher(
    config: OpenAICompatibleTeacher, name: str, asked: Asked, student: Path
) -> hosted.Hosted:
    if config.base_url is None and config.provider != "openai":
        raise UserError(f"teachers.{name}.base_url: found null, wanted the server's URL. Add it.")
    can = check(config.provider, config.model, asked.continuation, asked.temperature)
    adapter = OpenAICompatible(config, hosted.asking(config, asked, can), can)
    return hosted.Hosted(config, name, asked, student, can, adapter)


class OpenAICompatible:
    batch_bytes = 150_000_000  # a file of at most 200 MB

    def __init__(self, config: OpenAICompatibleTeacher, asking: Asking, can: Capability) -> None:
        self.config, self.asking, self.can = config, asking, can
        self.path = "/completions" if asking.mode == "completions" else "/chat/completions"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise missing_sdk("openai", "openai") from error
        async with openai.AsyncOpenAI(
            api_key=hosted.api_key(self.config),
            base_url=self.config.base_url,
            max_retries=0,
            timeout=self.config.timeout_seconds,
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
        with errors():
            raw = await client.post(self.path, body=self.body(call), cast_to=object)
        return self.parse(raw)

    def parse(self, raw: Any) -> Reply:
        """Raises Transient where the reply has not the shape of its kind."""
        try:
            usage = raw.get("usage") or {}
            return Reply(
                [self._choice(choice) for choice in raw["choices"]],
                str(raw["model"]),
                int(usage.get("prompt_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            shown = str(raw)[:100]
            raise Transient(f"not a reply of this API: {error!r} in {shown!r}") from None

    def _choice(self, choice: dict[str, Any]) -> Choice:
        message = choice.get("message") or {}
        text = choice["text"] if self.asking.mode == "completions" else message["content"]
        reason = choice["finish_reason"]
        refused: Reason | None = None
        if message.get("refusal") or reason == "content_filter":
            refused, reason, text = "refusal", "stop", text or message.get("refusal")
        ids = choice.get("token_ids")
        return Choice(
            int(choice["index"]),
            clean(text or ""),
            ended(reason, {"stop", "eos", "end_turn"}, {"length"}),
            None if ids is None else [int(i) for i in ids],
            refused,
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
        return str(batch.id)

    async def collect(self, client: Any, batch: str) -> dict[str, Result] | None:
        with errors():
            found = await client.batches.retrieve(batch)
            if found.status in ("validating", "in_progress", "finalizing", "cancelling"):
                return None
            if found.status == "failed":
                raise Refused(f"batch {batch} failed: {found.errors}", "ended")
            results: dict[str, Result] = {}
            if found.status == "cancelled":
                results[MISSING] = Refused(f"batch {batch} was cancelled")
            for file in (found.output_file_id, found.error_file_id):
                if file:
                    results |= self._results((await client.files.content(file)).text)
        return results

    def _results(self, text: str) -> dict[str, Result]:
        found: dict[str, Result] = {}
        for line in text.splitlines():
            try:
                row = json.loads(line)
                found[row["custom_id"]] = self._result(row)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise Transient(f"not a line of batch results: {line[:100]!r}") from None
        return found

    def _result(self, row: dict[str, Any]) -> Result:
        response = row.get("response")
        if response is None:
            return Transient(str(row["error"]))  # expired, or it never ran
        if response["status_code"] != 200:
            return status_error(response["status_code"], str(response["body"]), {})
        try:
            return self.parse(response["body"])
        except Transient as error:
            return error
