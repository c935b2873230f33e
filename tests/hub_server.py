"""A Hub in memory over real HTTP, for the real client: repositories, revisions, LFS, tokens, and breaking on demand.

    with HubServer() as hub:
        subprocess.run(..., env=hub.environment(home))

`hub.break_request(n, how)` breaks the n-th request from now on, once or for ever: "503" answers so, "429" too and asks
to come again as `hub.retry_after` says, "portal" answers with a login page, as the network of a hotel does, "drop"
hangs up before anything was done, and "lose the answer" hangs up after it was done. The accounts in `hub.free` pay
nothing: they get no Space but on ZeroGPU.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TOKENS = {"hf_me_writes": "me", "hf_you_write": "you"}
READ_ONLY = {"hf_me_reads": "me"}
REPOSITORY = r"(?P<id>[\w.-]+/[\w.-]+)"
PORTAL = b"<!DOCTYPE html><html><title>Welcome</title><body>Please accept the terms of use.</body></html>"
NOT_PAID = (  # the Hub's own words since July 2026
    "Static Spaces are free for everyone, but hosting Gradio and Docker Spaces on free cpu-basic requires a PRO "
    "subscription. Subscribe at https://huggingface.co/pro"
)
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class Repository:
    """Every revision by its commit id, oldest first: {path: content}."""

    private: bool = False
    hardware: str | None = None  # of a Space
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.revisions)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.revisions[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        """A new revision with these files; its id."""
        digest = hashlib.sha1(str(len(self.revisions)).encode())
        for path in sorted(files):
            digest.update(path.encode() + files[path])
        self.revisions[digest.hexdigest()] = dict(files)
        return self.head

    def find(self, revision: str) -> str | None:
        """The id of `main`, of a commit id, or of an unambiguous beginning of one."""
        if revision == "main":
            return self.head
        found = [oid for oid in self.revisions if oid.startswith(revision) and len(revision) >= 7]
        return found[0] if len(found) == 1 else None


class HubServer:
    """Serves until the `with` block ends, on a free port of the loopback."""

    def __init__(self) -> None:
        self.clear()
        self.lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def clear(self) -> None:
        """Hold nothing, and break nothing."""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.broken: tuple[int, str, bool] | None = None
        self.free: set[str] = set()
        self.retry_after = "7"
        self.before_commit: Callable[[], object] | None = None  # called once, as someone else would push

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the server off the network; what it holds stays to be looked at."""
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path, token: str | None = "hf_me_writes", **more: str) -> dict[str, str]:
        """Of a process whose Hub this is: a home and a cache of its own, no project on the path."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_TOKEN", "HF_HUB_OFFLINE")}
        ours = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # with Xet installed, the client would not speak LFS
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return kept | ours | ({} if token is None else {"HF_TOKEN": token}) | more

    def break_request(self, number: int, how: str, forever: bool = False) -> None:
        """Break the request `number`, counted from 1 from now on; `forever`: and all that follow."""
        self.requests.clear()
        self.broken = (number, how, forever)

    def heal(self) -> None:
        """Break nothing any more, and count from the start."""
        self.requests.clear()
        self.broken = None

    def note(self, line: str) -> str | None:
        """Remember a request; how it is to be broken, if it is."""
        with self.lock:
            self.requests.append(line)
            if self.broken is None:
                return None
            number, how, forever = self.broken
            here = len(self.requests)
            return how if here == number or (forever and here > number) else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # a client that fetches many files at once


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body follows its head: without this it waits 40 ms for the acknowledgement
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # -------------------------------------------------------------------------------------------------- the request

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.body = self.read_body()
        if url.path == "/api/agent-harnesses":  # the client asks for a list to name itself by, and can do without
            return self.send(404, {"error": "no such list"})
        how = self.hub.note(f"{self.command} {url.path}")
        if how == "drop":
            return self.hang_up()
        if how == "503":
            return self.send(503, {"error": "the Hub is busy"})
        if how == "429":
            return self.send(429, {"error": "too many requests"}, {"Retry-After": self.hub.retry_after})
        if how == "portal":
            return self.send(200, PORTAL, {"Content-Type": "text/html; charset=utf-8"})
        try:
            with self.hub.lock:
                reply = self.route(unquote(url.path))
        except _Refused as refused:
            reply = (refused.status, {"error": str(refused)}, {"X-Error-Code": refused.code} if refused.code else {})
        return self.hang_up() if how else self.send(*reply)

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = dict(headers or {})
        shown = headers.pop("Shown-Length", str(len(body)))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": shown, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def route(self, path: str) -> tuple:
        routes = {
            r"POST /api/repos/create": self.create,
            r"POST /api/validate-yaml": self.validate,
            r"GET /api/whoami-v2": self.whoami,
            rf"POST /api/(?P<kind>\w+)/{REPOSITORY}/preupload/(?P<revision>.+)": self.preupload,
            rf"POST /(?:(?P<kind>datasets|spaces)/)?{REPOSITORY}\.git/info/lfs/objects/batch": self.batch,
            r"PUT /store/(?P<oid>\w+)": self.store,
            rf"POST /api/(?P<kind>\w+)/{REPOSITORY}/commit/(?P<revision>.+)": self.commit,
            rf"GET /api/(?P<kind>\w+)/{REPOSITORY}(?:/revision/(?P<revision>[^/]+))?": self.info,
            rf"GET /api/(?P<kind>\w+)/{REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<under>.+))?": self.tree,
            rf"(?:GET|HEAD) /(?:(?P<kind>datasets|spaces)/)?{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": (
                self.resolve
            ),
        }
        for pattern, handler in routes.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return handler(**found.groupdict())
        raise _Refused(404, f"no such address: {self.command} {path}")

    # -------------------------------------------------------------------------------------------------- who may do what

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in TOKENS | READ_ONLY:
            raise _Refused(401, "Invalid username or password.")
        return (TOKENS | READ_ONLY)[token]

    def writer(self, owner: str | None) -> str:
        """The user, who must be allowed to write under `owner`."""
        user = self.user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        token = self.headers["Authorization"].removeprefix("Bearer ")
        if token in READ_ONLY or owner not in (None, user):
            raise _Refused(403, f"You don't have the rights to write under the namespace {owner or user}")
        return user

    def repository(self, kind: str | None, id: str) -> Repository:
        found = self.hub.repositories.get((KINDS[kind or "models"], id))
        if found is None or (found.private and self.user() != id.split("/")[0]):
            raise _Refused(404, "Repository not found", "RepoNotFound")
        return found

    def revision(self, kind: str | None, id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(kind, id)
        oid = repository.find(revision or "main")
        if oid is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.revisions[oid]

    # -------------------------------------------------------------------------------------------------- the answers

    def whoami(self) -> tuple:
        return 200, {"name": self.writer(None), "type": "user", "orgs": []}

    def validate(self) -> tuple:
        return 200, {"errors": [], "warnings": []}

    def create(self) -> tuple:
        asked = json.loads(self.body)
        user = self.writer(asked.get("organization"))
        kind, id = asked.get("type") or "model", f"{asked.get('organization') or user}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{id}"
        hardware = (asked.get("hardware") or "cpu-basic") if kind == "space" else None
        if hardware and user in self.hub.free and hardware != "zero-a10g":
            raise _Refused(402, NOT_PAID)
        if (kind, id) in self.hub.repositories:
            return 409, {"error": "You already created this repo", "url": url}
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[kind, id] = Repository(private, hardware)
        self.hub.repositories[kind, id].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return 200, {"url": url, "name": id, "id": id}

    def preupload(self, kind: str, id: str, revision: str) -> tuple:
        self.writer(id.split("/")[0])
        _, files = self.revision(kind, id, revision)

        def known(path: str) -> str | None:
            return None if path not in files else _oid(path, files[path])

        listed = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if _is_lfs(f["path"]) else "regular",
                "shouldIgnore": False,
                "oid": known(f["path"]),
            }
            for f in json.loads(self.body)["files"]
        ]
        return 200, {"files": listed}

    def batch(self, kind: str | None, id: str) -> tuple:
        self.writer(id.split("/")[0])
        self.repository(kind, id)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/store/{asked['oid']}"}}}
            objects.append(asked | ({} if asked["oid"] in self.hub.stored else upload))
        return 200, {"transfer": "basic", "objects": objects}

    def store(self, oid: str) -> tuple:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "the content is not what it says it is")
        self.hub.stored[oid] = self.body
        return 200, b""

    def commit(self, kind: str, id: str, revision: str) -> tuple:
        self.writer(id.split("/")[0])
        repository = self.repository(kind, id)
        meanwhile, self.hub.before_commit = self.hub.before_commit, None
        if meanwhile:
            meanwhile()
        files = dict(repository.files)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", repository.head) != repository.head:
                raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    raise _Refused(400, f"{value['path']} was never uploaded")
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        oid = repository.commit(files)
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{id}/commit/{oid}"}

    def info(self, kind: str, id: str, revision: str | None) -> tuple:
        oid, files = self.revision(kind, id, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        repository = self.repository(kind, id)
        told = {"id": id, "sha": oid, "siblings": siblings, "private": repository.private, "tags": []}
        if repository.hardware:
            told["runtime"] = {"stage": "BUILDING", "hardware": {"current": None, "requested": repository.hardware}}
        return 200, told

    def tree(self, kind: str, id: str, revision: str, under: str | None) -> tuple:
        """The files below a folder; without recursive=true those in it alone, and its folders."""
        _, files = self.revision(kind, id, revision)
        prefix = f"{under}/" if under else ""
        inside = {path: content for path, content in sorted(files.items()) if path.startswith(prefix)}
        if under and not inside:
            raise _Refused(404, f"{under} does not exist", "EntryNotFound")
        if "recursive=true" in urlsplit(self.path).query.lower():
            return 200, [_entry(path, content) for path, content in inside.items()]
        folders = dict.fromkeys(prefix + path.removeprefix(prefix).split("/")[0] for path in inside)
        listed = [
            _entry(path, files[path]) if path in files else {"type": "directory", "path": path, "oid": "0", "size": 0}
            for path in folders
        ]
        return 200, listed

    def resolve(self, kind: str | None, id: str, revision: str, path: str) -> tuple:
        oid, files = self.revision(kind, id, revision)
        if path not in files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        content = files[path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{_oid(path, content)}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return 200, content, headers
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, content[first : last + 1], headers


def _is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".png", ".parquet"))


def _entry(path: str, content: bytes) -> dict:
    lfs = {"oid": _oid(path, content), "size": len(content), "pointerSize": 134}
    entry = {"type": "file", "path": path, "oid": _git_oid(content), "size": len(content)}
    return entry | ({"lfs": lfs} if _is_lfs(path) else {})


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if _is_lfs(path) else _git_oid(content)
