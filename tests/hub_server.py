"""A stand-in for the Hugging Face hub on loopback: repositories, commits, large files, downloads.

As much of its HTTP interface as huggingface_hub 2.4 uses to upload a folder and to download one
without Xet, which has a protocol of its own.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.servers import Server

COMMIT = "c" * 40
LARGE = (".safetensors", ".parquet")  # are sent apart, as LFS objects
INFO = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)$")
API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit|revision|tree)/")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)")


class Hub(Server):
    """`repos`: by kind and name, whether it is private and its files. One token is right."""

    def __init__(self, token):
        super().__init__(Handler)
        self.token, self.repos, self.objects = token, {}, {}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path, hub = urlsplit(self.path).path, self.server
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if self.headers["Authorization"] != f"Bearer {hub.token}":
            return self._say({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            key = asked.get("type", "model"), name
            known = key in hub.repos
            private = asked.get("private", asked.get("visibility") == "private")
            hub.repos.setdefault(key, {"private": private, "files": {}})
            return self._say({"url": f"{hub.url}/{name}"}, 409 if known else 200)
        if path.endswith("/info/lfs/objects/batch"):
            return self._say({"transfer": "basic", "objects": [*map(self._upload, _objects(body))]})
        kind, name, what = API.match(path).groups()
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": p, "uploadMode": modes[p.endswith(LARGE)], "shouldIgnore": False}
                for p in (one["path"] for one in asked)
            ]
            return self._say({"files": files})
        for line in body.splitlines():
            self._commit(hub.repos[kind, name]["files"], **json.loads(line))
        return self._say({"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _upload(self, one):
        return one | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}

    def _commit(self, files, key, value):
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        if key == "lfsFile":
            files[value["path"]] = self.server.objects[value["oid"]]

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[hashlib.sha256(body).hexdigest()] = body
        self._say({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        if asked := INFO.match(path) or API.match(path):
            kind, name, what = [*asked.groups(), "info"][:3]
            repo = self.server.repos.get((kind, name))
            if repo is None:
                return self._say({"error": "Repository not found"}, 404, "RepoNotFound")
            names = [*repo["files"]]
            if what == "tree":
                return self._say([_entry(n, repo["files"][n]) for n in names])
            siblings = [{"rfilename": n} for n in names]
            return self._say(
                {"id": name, "sha": COMMIT, "siblings": siblings, "private": repo["private"]}
            )
        if FILE.match(path) is None:
            return self._say({"error": "Not found"}, 404)
        data, name, file = FILE.match(path).groups()
        content = self.server.repos["dataset" if data else "model", name]["files"][file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._send(content, 200, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def _say(self, value, status=200, code=None):
        headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {})
        self._send(json.dumps(value).encode(), status, headers)

    def _send(self, content, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _objects(body):
    return [{"oid": one["oid"], "size": one["size"]} for one in json.loads(body)["objects"]]


def _entry(name, content):
    own = hashlib.sha256(content).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": own[:40]}
