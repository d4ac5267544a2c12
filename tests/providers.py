"""Servers that speak the wire formats of OpenAI, Anthropic and Google, for the real SDKs.

The shapes are those of the providers' documentation.
"""

import json
from collections import Counter

from pipeline import teachers
from pipeline.config import params
from pipeline.config.teachers import AnthropicTeacher, GoogleTeacher, OpenAICompatibleTeacher
from pipeline.teachers import protocol
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response
from tests.servers import Handler, Server

MODELS = {
    "openai": "gpt-4.1-2025-04-14",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
}
RETURNED = {**MODELS, "anthropic": "claude-haiku-4-5-20251001"}
MODES = {"openai": "instruct", "anthropic": "prefill", "google": "prefill"}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add 8 and 5."}]
PREFIX = "8+5= "


def message(provider, texts, finish="length", model=None):
    """A reply in the provider's format, one text a choice."""
    model = model or RETURNED[provider]
    match provider:
        case "openai":
            return {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "model": model,
                "choices": [
                    {
                        "index": i,
                        "message": {"role": "assistant", "content": text, "refusal": None},
                        "finish_reason": finish,
                    }
                    for i, text in enumerate(texts)
                ],
                "usage": {"prompt_tokens": 20, "completion_tokens": 3 * len(texts)},
            }
        case "anthropic":
            reasons = {"length": "max_tokens", "stop": "end_turn", "refusal": "refusal"}
            return {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": [{"type": "text", "text": text} for text in texts if text],
                "stop_reason": reasons[finish],
                "stop_sequence": None,
                "usage": {"input_tokens": 20, "output_tokens": 3},
            }
        case _:
            reasons = {"length": "MAX_TOKENS", "stop": "STOP", "refusal": "SAFETY"}
            return {
                "candidates": [
                    {
                        "content": {"role": "model", **({"parts": [{"text": t}]} if t else {})},
                        "finishReason": reasons[finish],
                        "index": i,
                    }
                    for i, t in enumerate(texts)
                ],
                "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 3 * len(texts)},
                "modelVersion": model,
            }


class Scripted(Server):
    """Answers each request with the next of `script`, then with whole replies.

    An item is a (status, content, headers) or a function of the handler.
    """

    def __init__(self, provider, script=()):
        self.provider, self.script = provider, list(script)
        self.requests, self.paths, self.batches = [], [], {}
        super().__init__(ScriptedHandler)

    def asked(self, request):
        """n of a request."""
        config = request.get("generationConfig", {})
        return request.get("n") or config.get("candidateCount") or 1


class ScriptedHandler(Handler):
    def do_POST(self):
        request = json.loads(self.body())
        server = self.server
        with server.lock:
            server.requests.append(request)
            server.paths.append(self.path)
            number = len(server.requests)
            step = server.script.pop(0) if server.script else None
        if callable(step):
            step(self)
        elif step is not None:
            status, content, headers = step
            self.reply(status, content, **headers)
        else:
            texts = [f"13, carry {number}.{i}" for i in range(server.asked(request))]
            self.reply(200, message(server.provider, texts))


def config(provider, url, **more):
    common = {"base_url": url, "timeout_seconds": 30.0, "tries": 4, "concurrency": 4, **more}
    common.setdefault("model", MODELS[provider])
    match provider:
        case "openai":
            common["base_url"] = f"{url}/v1"
            return OpenAICompatibleTeacher(kind="openai_compatible", provider="openai", **common)
        case "anthropic":
            return AnthropicTeacher(kind="anthropic", **common)
        case _:
            return GoogleTeacher(kind="google", **common)


def judging(provider, url, store, tmp_path, samples=1, transport="live", mode=None, **more):
    asked = protocol.Asked(mode or MODES[provider], 1.0, transport, params.Runtime())
    teacher = teachers.load(config(provider, url, **more), "it", asked, tmp_path, None)
    wanted = Wanted(samples, 12, 0, 3, 1.0, False)
    return Judging(teacher, wanted, Budget(store))


def ask(found, prefixes=(PREFIX,)):
    """The judgments by (position, sample)."""
    answered = found.judge([response(found, prefixes)])
    return {(p, s): judgment for (_, p, s), judgment in answered.items()}


def response(found, prefixes):
    """A response whose forks are at 0, 1, ..., with these prefixes."""
    sent = {i: found.teacher.prompt(MESSAGES, [], text) for i, text in enumerate(prefixes)}
    return Response("r0", sent, dict(enumerate(prefixes)))


class Batches(Server):
    """A provider's batch service: a batch has ended at its `polls`-th look; results come reversed.

    `outcome(batch, index)` says what becomes of a request: ok, expired, busy, refused, or cancelled
    with its batch. `cut` are the first requests of a method that are taken and never answered.
    """

    def __init__(self, provider, polls=2, outcome=lambda batch, index: "ok"):
        self.provider, self.polls, self.outcome = provider, polls, outcome
        self.batches, self.looks = [], Counter()  # each batch: requests by key
        self.barred = None  # status of every look at the first batch
        self.cut = Counter()
        super().__init__(BatchHandler)

    def results(self, number):
        """(key, outcome, reply or reason) of each request of a batch, the last first."""
        found = []
        for index, (key, request) in enumerate(self.batches[number].items()):
            n = Scripted.asked(self, request)
            texts = [f"13, {key[:8]}.{i}" for i in range(n)]
            found.append((key, self.outcome(number, index), message(self.provider, texts)))
        return found[::-1]


class BatchHandler(Handler):
    def reply(self, *args, **headers):
        with self.server.lock:
            left = self.server.cut[self.command]
            self.server.cut[self.command] -= left > 0
        if left > 0:
            self.close_connection = True
        else:
            super().reply(*args, **headers)

    def do_POST(self):
        body, server = self.body(), self.server
        match server.provider:
            case "openai" if self.path == "/v1/files":
                rows = [json.loads(x) for x in body.splitlines() if x.startswith(b'{"custom_id"')]
                assert {(row["method"], row["url"]) for row in rows} == {
                    ("POST", "/v1/chat/completions")
                }
                server.batches.append({row["custom_id"]: row["body"] for row in rows})
                number = len(server.batches) - 1
                file = {"id": f"file-{number}", "object": "file", "purpose": "batch"}
                self.reply(200, file | {"bytes": 1, "created_at": 0, "filename": "calls.jsonl"})
            case "openai":
                self.reply(200, self.openai(int(json.loads(body)["input_file_id"][5:]), False))
            case "anthropic":
                rows = json.loads(body)["requests"]
                server.batches.append({row["custom_id"]: row["params"] for row in rows})
                self.reply(200, self.anthropic(len(server.batches) - 1, False))
            case _:
                rows = json.loads(body)["batch"]["inputConfig"]["requests"]["requests"]
                server.batches.append({row["metadata"]["key"]: row["request"] for row in rows})
                self.reply(200, self.google(len(server.batches) - 1, False))

    def do_GET(self):
        server, name = self.server, self.path.removesuffix("/content").removesuffix("/results")
        number = int(name.rpartition("-")[2])
        if self.path != name:
            lines = "\n".join(json.dumps(row) for row in self.rows(number))
            self.reply(200, lines.encode(), content_type="application/x-jsonl")
            return
        server.looks[number] += 1
        if number == 0 and server.barred:
            self.reply(server.barred, {"error": {"message": "not for you"}})
            return
        render = getattr(self, server.provider)
        self.reply(200, render(number, server.looks[number] >= server.polls))

    def openai(self, number, ended):
        out = {"output_file_id": f"out-{number}", "error_file_id": f"err-{number}"}
        outcomes = {outcome for _, outcome, _ in self.server.results(number)}
        end = next((end for end in ("expired", "cancelled") if end in outcomes), "completed")
        return {
            "id": f"batch-{number}",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": f"file-{number}",
            "completion_window": "24h",
            "created_at": 0,
            "status": end if ended else "in_progress",
            **(out if ended else {}),
        }

    def anthropic(self, number, ended):
        path = f"/v1/messages/batches/batch-{number}"
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        return {
            "id": f"batch-{number}",
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": "2026-11-24T00:00:00Z",
            "expires_at": "2026-11-25T00:00:00Z",
            "results_url": f"{self.server.url}{path}/results" if ended else None,
        }

    def google(self, number, ended):
        outcomes = {outcome for _, outcome, _ in self.server.results(number)}
        end = "CANCELLED" if "cancelled" in outcomes else "SUCCEEDED"
        state = f"BATCH_STATE_{end}" if ended else "BATCH_STATE_RUNNING"
        rows = {"inlinedResponses": {"inlinedResponses": self.rows(number)}} if ended else {}
        return {
            "name": f"batches/batch-{number}",
            "metadata": {"state": state, **({"output": rows} if rows else {})},
        }

    def rows(self, number):
        """The results of a batch; OpenAI's error file has those that are not ok."""
        rows = []
        for key, outcome, reply in self.server.results(number):
            whole = outcome == "ok"
            if self.server.provider == "openai" and outcome == "cancelled":
                continue
            if self.server.provider == "openai" and whole == self.path.startswith("/v1/files/err"):
                continue
            rows.append(getattr(self, f"{self.server.provider}_row")(key, outcome, reply))
        return rows

    def openai_row(self, key, outcome, reply):
        status = {"ok": 200, "busy": 503, "refused": 400}
        if outcome == "expired":
            error = {"code": "batch_expired", "message": "not executed in time"}
            return {"custom_id": key, "response": None, "error": error}
        body = reply if outcome == "ok" else {"error": {"message": f"{outcome} it is"}}
        return {"custom_id": key, "response": {"status_code": status[outcome], "body": body}}

    def anthropic_row(self, key, outcome, reply):
        kind = {"busy": "overloaded_error", "refused": "invalid_request_error"}
        error = {
            "type": "error",
            "error": {"type": kind.get(outcome), "message": f"{outcome} it is"},
        }
        result = {
            "ok": {"type": "succeeded", "message": reply},
            "expired": {"type": "expired"},
            "cancelled": {"type": "canceled"},
        }.get(outcome, {"type": "errored", "error": error})
        return {"custom_id": key, "result": result}

    def google_row(self, key, outcome, reply):
        code = {"expired": 4, "busy": 14, "refused": 3, "cancelled": 1}  # of google.rpc.Code
        if outcome == "ok":
            return {"metadata": {"key": key}, "response": reply}
        error = {"code": code[outcome], "message": f"{outcome} it is"}
        return {"metadata": {"key": key}, "error": error}
