#!/usr/bin/env bash
# With hf_xet installed no file goes by LFS any more, also to a hub that has no Xet.
# Guess: where the hub answers that a file is to be sent by LFS and knows no Xet (404), the client
# sends it by LFS, as clients of version 1 did; and an error of the transfer is a HfHubHTTPError.
# What happens: upload_folder asks for a Xet token, gets 404 and raises Python's own ConnectionError,
# "Network error". The LFS batch is never asked for. With HF_HUB_DISABLE_XET=1 the same folder goes
# through. hf_xet is a dependency of huggingface_hub, so every install has it.
# Version: huggingface_hub 2.4.0, hf-xet 1.8.0.
# Why it matters: a hub of one's own (a mirror, a registry, a stand-in of tests) takes checkpoints only
# with that variable, and who catches the library's own errors lets this one pass.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q huggingface_hub==2.4.0 hf-xet==1.8.0
cd "$work"
export HF_HOME=$work/home HF_TOKEN=hf_nobodys
cat > hub.py <<'PY'
"""A hub that speaks LFS alone; prints which of its addresses were asked for."""
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked = []


class Hub(BaseHTTPRequestHandler):
    def say(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def read(self):
        asked.append(self.path)
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def do_POST(self):
        body, at = self.read(), self.path
        if at.endswith("/repos/create"):
            return self.say({"url": f"{url}/me/x"})
        if "/preupload/" in at:
            one = {"path": "model.safetensors", "uploadMode": "lfs", "shouldIgnore": False}
            return self.say({"files": [one]})
        if at.endswith("/info/lfs/objects/batch"):
            own = [o | {"actions": {"upload": {"href": f"{url}/lfs"}}} for o in json.loads(body)["objects"]]
            return self.say({"transfer": "basic", "objects": own})
        return self.say({"commitUrl": f"{url}/me/x/commit/1", "commitOid": "1" * 40})

    def do_PUT(self):
        self.read()
        self.say({})

    def do_GET(self):
        asked.append(self.path)
        self.say({"error": "Not found"}, 404)

    def log_message(self, *words):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
url = f"http://127.0.0.1:{server.server_port}"
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = url
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

api = huggingface_hub.HfApi()
api.create_repo("me/x", exist_ok=True)
os.makedirs("folder", exist_ok=True)
with open("folder/model.safetensors", "wb") as file:
    file.write(b"weights")
try:
    api.upload_folder(repo_id="me/x", folder_path="folder")
    found = "uploaded"
except Exception as error:
    found = f"{type(error).__module__}.{type(error).__name__}: {str(error).split(',')[0]}"
    assert not isinstance(error, HfHubHTTPError)
xet = any("xet-write-token" in path for path in asked)
lfs = any(path.endswith("/info/lfs/objects/batch") for path in asked)
print(f"{found}; asked for Xet: {xet}, for LFS: {lfs}")
assert (found == "uploaded", xet, lfs) == (sys.argv[1] == "uploaded", *map(bool, map(int, sys.argv[2:])))
PY
echo "huggingface_hub $(venv/bin/python -c 'import huggingface_hub; print(huggingface_hub.__version__)')"
venv/bin/python hub.py refused 1 0
HF_HUB_DISABLE_XET=1 venv/bin/python hub.py uploaded 0 1
