"""Real HTTP servers on loopback: one that answers as a function of the request, and a bad line."""

import contextlib
import hashlib
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ALPHABET = "0123456789+=,;#"  # of the demo's students


def text_of(prompt, seed, length):
    """Characters that depend on prompt and seed alone."""
    draw = random.Random(hashlib.sha256(f"{prompt}|{seed}".encode()).hexdigest())
    return "".join(draw.choice(ALPHABET) for _ in range(length))


def of_check(request):
    """Whether it is one of `omniopd teacher check`, not about a fork."""
    return "lighthouse" in str(request) or "Count from" in str(request)


class Server(ThreadingHTTPServer):
    """A server in a thread; `url` is where it listens."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()

    def handle_error(self, request, address):
        pass  # a client that went away is part of the test

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", headers.pop("content_type", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)


class Pure(Server):
    """An OpenAI-compatible server: the reply is a function of the request; it counts what it sent.

    `seconds` is how long a reply takes, or a function of the request that says so. `whole` counts
    the replies about forks that were written to the end, by prompt and seed.
    """

    def __init__(self, seconds=0.0, model="stub-1", change=lambda request, reply: reply):
        self.seconds = seconds if callable(seconds) else lambda request: seconds
        self.model, self.change = model, change
        self.whole, self.requests = Counter(), []
        self.headers = []
        super().__init__(PureHandler)

    @property
    def answers(self):
        """Requests about forks, without those of the teacher's check."""
        return [request for request in self.requests if not of_check(request)]


def read(prompt):
    """Tokens of a prompt as the reply tells them: of text always the same."""
    ids = isinstance(prompt, list) and all(isinstance(token, int) for token in prompt)
    return len(prompt) if ids else 7


class PureHandler(Handler):
    def do_POST(self):
        request = json.loads(self.body())
        with self.server.lock:
            self.server.requests.append(request)
            self.server.headers.append(dict(self.headers))
        time.sleep(self.server.seconds(request))
        chat = self.path.endswith("/chat/completions")
        prompt = request["messages"] if chat else request["prompt"]
        choices = [self.choice(request, prompt, i, chat) for i in range(request.get("n", 1))]
        reply = {
            "id": "x",
            "object": "chat.completion" if chat else "text_completion",
            "model": self.server.model,
            "choices": choices,
            "usage": {"prompt_tokens": read(prompt), "completion_tokens": 5 * len(choices)},
        }
        self.reply(200, self.server.change(request, reply))
        key = (json.dumps(prompt), request.get("seed"))
        if not of_check(request):  # which repeats a probe with its seed
            with self.server.lock:
                self.server.whole[key] += 1

    def choice(self, request, prompt, i, chat):
        shown = json.dumps(prompt)
        limit = request.get("max_tokens") or request.get("max_completion_tokens")
        if "1, 2, 3, 4, 5," in shown:
            text = " 6, 7, 8, 9"
        else:
            text = text_of(shown, (request.get("seed") or 0) + i, limit)
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {"index": i, "finish_reason": "length", **content}


class BadLine(Server):
    """A proxy that fails a share of the requests: status, reset, stall, broken text, half a body.

    `delivered` counts the replies that it passed on whole, by request. Its errors repeat
    the key that they were sent, as some providers' do; `keys` are all that came.
    """

    FAULTS = ("429", "500", "reset", "stall", "broken", "half")

    def __init__(self, target, share, seed=0, stall=6.0):
        self.target, self.share, self.stall = target, share, stall
        self.draw = random.Random(seed)
        self.faults, self.delivered, self.keys = Counter(), Counter(), set()
        super().__init__(BadLineHandler)


class BadLineHandler(Handler):
    def do_POST(self):
        body, line = self.body(), self.server
        with line.lock:
            fault = line.draw.choice(line.FAULTS) if line.draw.random() < line.share else None
            line.faults[fault] += 1
            line.keys.add(self.headers["Authorization"])
        said = f"not now, {self.headers['Authorization']}"
        match fault:
            case "429":
                self.reply(429, {"error": {"message": said}}, Retry_After="0.05")
            case "500":
                self.reply(500, {"error": {"message": said}})
            case "reset":
                # no linger: the client sees a reset, not an end
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()
            case "stall":
                time.sleep(line.stall)
                self.connection.close()
            case "broken":
                self.reply(200, f'{{"choices": [{{"text": "{said}'.encode())
            case _:
                self.forward(body, half=fault == "half")
        if fault:
            self.close_connection = True

    def forward(self, body, half):
        host = self.server.target.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        if half:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        self.reply(reply.status, data)
        with self.server.lock:
            self.server.delivered[body] += 1
