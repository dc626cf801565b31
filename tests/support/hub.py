"""A local stand-in of the Hugging Face hub: what huggingface_hub needs to make, fill, list and read models."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
TOKEN = "hf_of_the_tests"


class FakeHub:
    """Models by name, each a list of commits; `requests` has the method and the path of every request."""

    def __init__(self) -> None:
        self.models: dict[str, list[tuple[str, Files]]] = {}
        self.private: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def commit(self, model: str, files: Files) -> str:
        content = [(path, hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items())]
        number = len(self.models[model])
        oid = hashlib.sha1(repr((model, number, content)).encode()).hexdigest()
        self.models[model].append((oid, files))
        return oid

    def find(self, model: str, revision: str) -> tuple[str, Files] | None:
        commits = self.models[model]
        return commits[-1] if revision == "main" else next((one for one in commits if one[0] == revision), None)

    def downloads(self) -> list[str]:
        """The files that were read, each as often as it was."""
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.answer(404, {"error": code}, {"X-Error-Code": code})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def path_parts(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        return path

    def do_GET(self) -> None:
        path = self.path_parts()
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?/?", path):
            model, kind, revision = match[1], match[2], match[3] or "main"
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            model, kind, revision = match[1], "file", match[2]
        else:
            return self.answer(501, {"error": path})
        if model not in self.hub.models:
            return self.missing("RepoNotFound")
        found = self.hub.find(model, revision)
        if found is None:
            return self.missing("RevisionNotFound")
        oid, files = found
        if kind == "file":
            if match[3] not in files:
                return self.missing("EntryNotFound")
            data = files[match[3]]
            return self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": oid})
        if kind == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            return self.answer(200, rows)
        siblings = [{"rfilename": name} for name in files]
        return self.answer(
            200, {"id": model, "sha": oid, "private": model in self.hub.private, "siblings": siblings, "tags": []}
        )

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        path, body = self.path_parts(), self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "no token"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            model = f"{asked['organization']}/{asked['name']}"
            if model in self.hub.models:
                return self.answer(409, {"error": "exists", "url": f"{self.hub.url}/{model}"})
            self.hub.models[model] = []
            if asked.get("visibility") == "private" or asked.get("private"):
                self.hub.private.add(model)
            self.hub.commit(model, {".gitattributes": b""})
            return self.answer(200, {"url": f"{self.hub.url}/{model}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if match is None or match[1] not in self.hub.models:
            return self.missing("RepoNotFound")
        if match[2] == "preupload":
            rows = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": rows})
        files = dict(self.hub.models[match[1]][-1][1])
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.hub.commit(match[1], files)
        return self.answer(200, {"commitUrl": f"{self.hub.url}/{match[1]}/commit/{oid}", "commitOid": oid})


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
