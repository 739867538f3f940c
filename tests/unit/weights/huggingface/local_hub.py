"""A server that does as much of huggingface.co as a push and a pull need."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import socket
from typing import Any

TOKEN = "hf_SecretSecretSecret"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories, commits, files of git and of LFS: what a push and a pull need."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[
            str, dict[str, dict[str, bytes]]
        ] = {}  # repository -> commit -> path -> bytes
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}  # of LFS, by their SHA-256
        self.seen: list[str] = []  # methods and paths

    def __str__(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes] | None:
        commits = self.commits[repository]
        return commits.get(list(commits)[-1] if revision == "main" else revision)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: Any = None, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.answer(
            {"error": message}, status, X_Error_Code=code, X_Error_Message=message
        )

    def do_GET(self) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        hub.seen.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/api/repos/create":
            self.create(json.loads(body), known)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif match := re.fullmatch("/lfs/([0-9a-f]{64})", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            hub.blobs[match[1]] = body
            self.answer()
        elif match := re.fullmatch(r"/(\w+/\w+).git/info/lfs/objects/batch", path):
            place = f"{hub}/{'full' if match[1] == 'me/full' else 'lfs'}"
            upload = [
                o | {"actions": {"upload": {"href": f"{place}/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.answer({"objects": upload, "transfer": "basic"})
        elif path.startswith("/full/"):
            self.refuse(507)
        elif "/down/" in path:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif "/broken/" in path:
            self.refuse(500)
        elif "/gated/" in path:
            self.refuse(403, "GatedRepo", "Access to model is restricted")
        elif match := re.fullmatch(
            r"/(?:api/models/)?(\w+/\w+)(?:/(\w+)/(\w+)(?:/(.+))?)?", path
        ):
            repository, verb, revision, name = match.groups()
            if repository not in hub.commits or (hub.private[repository] and not known):
                self.refuse(
                    404 if known else 401, "RepoNotFound", "Repository not found"
                )
            elif verb in ("preupload", "commit"):
                getattr(self, verb)(repository, body)
            elif (files := hub.files(repository, revision or "main")) is None:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                commit = next(
                    key
                    for key, value in hub.commits[repository].items()
                    if value is files
                )
                self.read(verb, files, commit, name, repository)
        else:
            self.refuse(400, message=f"no such call: {path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def create(self, wanted: dict[str, Any], known: bool) -> None:
        repository = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        if not known:
            self.refuse(401, message="Invalid username or password.")
        elif not repository.startswith("me/"):
            self.refuse(
                403,
                message="You don't have the rights to create a model under "
                f"{wanted['organization']}",
            )
        elif repository in self.server.commits:
            self.answer(
                {
                    "error": "You already created this model repo",
                    "url": f"{self.server}/{repository}",
                },
                409,
            )
        else:
            self.server.commits[repository] = {
                hashlib.sha1(repository.encode()).hexdigest(): {}
            }
            self.server.private[repository] = wanted.get(
                "visibility"
            ) == "private" or bool(wanted.get("private"))
            self.answer({"url": f"{self.server}/{repository}", "name": repository})

    def preupload(self, repository: str, body: bytes) -> None:
        modes = {True: "lfs", False: "regular"}
        names = [file["path"] for file in json.loads(body)["files"]]
        files = [
            {
                "path": n,
                "uploadMode": modes[n.endswith(".safetensors")],
                "shouldIgnore": False,
            }
            for n in names
        ]
        self.answer({"files": files})

    def commit(self, repository: str, body: bytes) -> None:
        files = dict(self.server.files(repository) or {})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(
                    line["value"]["content"]
                )
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.server.blobs[line["value"]["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        self.server.commits[repository][commit] = files
        self.answer(
            {
                "commitOid": commit,
                "commitUrl": f"{self.server}/{repository}/commit/{commit}",
            }
        )

    def read(
        self,
        verb: str | None,
        files: dict[str, bytes],
        commit: str,
        name: str | None,
        repository: str,
    ) -> None:
        blobs = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        if verb in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            private = self.server.private[repository]
            self.answer(
                {
                    "id": repository,
                    "modelId": repository,
                    "sha": commit,
                    "private": private,
                    "siblings": siblings,
                }
            )
        elif verb == "tree":
            rows = [
                {"type": "file", "path": p, "size": len(data), "oid": blobs[p][:40]}
                for p, data in files.items()
            ]
            self.answer(rows)
        elif name in files:
            self.answer(
                files[name],
                ETag=f'"{blobs[name]}"',
                X_Repo_Commit=commit,
                Accept_Ranges="bytes",
            )
        else:
            self.refuse(404, "EntryNotFound", "Entry not found")
