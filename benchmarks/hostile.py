"""Calls that no honest client sends: is each refused clearly, and does the page draw on as before?

    python -m benchmarks.hostile

150 calls of eight kinds go to one page: numbers and names that are none, bodies that are no calls, files and addresses
of files that are not the caller's, files that stand for much more, functions that are the page's own, and links full of
nonsense. What comes back is sorted into kinds of answer, and a file beside the page, whose words must not come back,
tells whether something leaked. In the end the page draws the same images as in the beginning.
"""

import itertools
import json
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
from tqdm.auto import tqdm

from benchmarks.served import ROOT, served
from benchmarks.table import Row, check_at_least, command_line, table
from ui.api import PARAMETERS

API, ANSWERS = "gradio_api", ("refused by name", "refused", "answered", "no reason given", "no answer", "leaked")
GOOD = ANSWERS[:3]
SECRET = "the words of a file beside the page"
PATIENCE = 120  # seconds until a call counts as without an answer


@dataclass
class Options:
    """The options of the command."""

    model: str = field(default=str(ROOT / "model_cards" / "fashion-cfg"), metadata={"help": "folder or Hub id"})
    calls: int = field(default=150, metadata={"help": "how many, evenly over all kinds"})
    json: str | None = field(default=None, metadata={"help": "write the rows to this file, too"})

    def __post_init__(self) -> None:
        check_at_least(self, calls=1)


@dataclass(frozen=True)
class Call:
    """A request, and for one of /generate the parameter that is wrong."""

    kind: str
    what: str
    method: str
    path: str
    content: bytes | None = None
    parameter: str = ""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


def generate(kind: str, parameter: str, value: str) -> Call:
    """A call of /generate in which one parameter has this value, written in JSON."""
    data = ", ".join(value if name == parameter else "null" for name in PARAMETERS)
    body = f'{{"data": [{data}]}}'.encode(errors="surrogatepass")
    return Call(kind, f"{parameter}={value[:30]}", "POST", f"{API}/call/generate", body, parameter)


NUMBERS = ("NaN", "Infinity", "1e400", "-1", "9" * 400, '"eight"', '"0x10"', "[1]", '{"a": 1}', "true", '""')
NAMED = ('"\'; DROP TABLE x; --"', '"<script>alert(1)</script>"', '"../../etc/passwd"', '"a\\u0000b"', '"\\ud800"')
NAMED += ("7", '["Bag"]', '"' + "x" * 1_000_000 + '"')


def numbers() -> Iterator[Call]:
    """What is no number, or far from any that is allowed."""
    for value, name in itertools.product(NUMBERS, ("steps", "guidance_scale", "seed", "count", "guidance_high")):
        yield generate("numbers", name, value)


def names() -> Iterator[Call]:
    """What no model, class or sampler is called."""
    for value, name in itertools.product(NAMED, ("model", "class_name", "sampler")):
        yield generate("names", name, value)


def bodies() -> Iterator[Call]:
    """Bodies that are no calls."""
    contents = {
        "no JSON": b"steps=8",
        "nothing": b"",
        "a list": b"[]",
        "data is text": b'{"data": "x"}',
        "too few": b'{"data": [1]}',
        "too many": json.dumps({"data": [None] * 500}).encode(),
        "nested": b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "objects": b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
        "no UTF-8": b'{"data": ["\xff\xfe"]}',
        "10 MB": json.dumps({"data": ["x" * 10_000_000]}).encode(),
    }
    for what, content in contents.items():
        yield Call("bodies", what, "POST", f"{API}/call/generate", content)


def given_files(secret: Path) -> Iterator[Call]:
    """Files of the server, and addresses in its network, given as the caller's own."""
    paths = (
        str(secret),
        "/etc/passwd",
        f"{ROOT}/app.py",
        "/proc/self/environ",
        "/dev/zero",
        "",
        "../" * 12 + "etc/passwd",
    )
    urls = ("http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:1/", "file:///etc/passwd")
    for path, name in itertools.product(paths, ("image", "mask_image")):
        yield generate("files as input", name, json.dumps({"path": path, "meta": {"_type": "gradio.FileData"}}))
    for url in urls:
        given = {"path": "x.png", "url": url, "meta": {"_type": "gradio.FileData"}}
        yield generate("files as input", "image", json.dumps(given))


def addresses(secret: Path) -> Iterator[Call]:
    """Addresses of files of the server."""
    targets = (str(secret), "/etc/passwd", f"{ROOT}/app.py", f"{ROOT}/model_cards", "/proc/self/environ", "/")
    for target in targets:
        climbing = "../" * 12 + target.lstrip("/")
        for path in (target, quote(target, safe=""), climbing, quote(climbing, safe="")):
            yield Call("addresses of files", target, "GET", f"{API}/file={path}")
        yield Call("addresses of files", target, "GET", "static/" + quote("../" * 12 + target.lstrip("/"), safe=""))


def uploads() -> Iterator[Call]:
    """Files that stand for much more, with names that lead elsewhere."""
    bombs = {"40 MB of text": (4, bytes(40_000_000)), "30,000 pixels": (30_000, b"{}"), "nested": (4, b"[" * 100_000)}
    for what, (side, text) in bombs.items():
        for name in ("bomb.png", "../../bomb.png", "x" * 300 + ".png"):
            body = _form(name, _png(side, text))
            headers = (("content-type", "multipart/form-data; boundary=edge"),)
            yield Call("uploads", f"{what} as {name[:20]}", "POST", f"{API}/upload", body, headers=headers)


def functions() -> Iterator[Call]:
    """Functions of the page itself, and some that are not there."""
    for index in (0, 1, 2, 5, 99, -1):
        body = json.dumps({"data": [], "fn_index": index, "session_hash": "mine"}).encode()
        yield Call("functions", f"number {index}", "POST", f"{API}/queue/join", body)
        yield Call("functions", f"run {index}", "POST", f"{API}/run/predict", body)
    for name in ("restore", "recall", "begin", "__init__", "../generate"):
        yield Call("functions", name, "POST", f"{API}/call/{name}", b'{"data": []}')


def links() -> Iterator[Call]:
    """Links to the page that are full of nonsense."""
    for value in ("nan", "1e400", "<script>", "%00", "../..", "x" * 5000, "%F0%9F%98%80", "[]"):
        yield Call("links", value[:20], "GET", f"?seed={value}&model={value}&steps={value}&__theme={value}")


def all_calls(secret: Path) -> list[Call]:
    """Every call, by kind."""
    kinds = (numbers(), names(), bodies(), given_files(secret), addresses(secret), uploads(), functions(), links())
    return list(itertools.chain(*kinds))


def chosen(calls: list[Call], count: int) -> list[Call]:
    """So many of them, evenly spread.

    Raises:
        ValueError: more than there are.
    """
    if count > len(calls):
        raise ValueError(f"calls must be at most {len(calls)}, got {count}")
    return [calls[index * len(calls) // count] for index in range(count)]


def answer(client: httpx.Client, call: Call) -> tuple[str, str]:
    """The kind of answer to a call, and its words."""
    try:
        reply = client.request(call.method, call.path, content=call.content, headers=dict(call.headers))
        text, status = reply.text, reply.status_code
        if call.path == f"{API}/call/generate" and status == 200:
            text = client.get(f"{API}/call/generate/{reply.json()['event_id']}").text
            status = 400 if "event: error" in text else 200
    except (httpx.TimeoutException, httpx.RemoteProtocolError) as error:
        return "no answer", f"{type(error).__name__}: {error}"
    except httpx.HTTPError as error:  # the client itself refuses what no address can be
        return "refused", f"{type(error).__name__}: {error}"
    return sorted_as(call, status, text), text[:300]


def sorted_as(call: Call, status: int, text: str) -> str:
    """The kind of an answer."""
    if SECRET in text or "root:x:0:" in text or "HF_HOME=" in text:
        return "leaked"
    if status < 400:
        return "answered"
    if call.parameter and f"{call.parameter} must" in text:
        return "refused by name"
    empty = text.rpartition("data:")[2].strip() in ("", "null", '""', "Internal Server Error")
    return "no reason given" if empty or status >= 500 else "refused"


def run_all(options: Options) -> list[Row]:
    """Start the page, send the calls, and see whether it draws as before."""
    with tempfile.TemporaryDirectory(prefix="beside-") as folder, served([options.model]) as server:
        secret = Path(folder) / "secret.txt"
        secret.write_text(SECRET)
        calls, rows = chosen(all_calls(secret), options.calls), []
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            before = _drawn(client)
            for call in tqdm(calls, desc="Calls", disable=None):
                kind, words = answer(client, call)
                rows.append({"kind": call.kind, "call": call.what, "answer": kind, "words": words})
            same = _drawn(client) == before
    return [*rows, {"kind": "afterwards", "call": "draws as before", "answer": "answered" if same else "no answer"}]


def _drawn(client: httpx.Client) -> list[bytes]:
    """The files of a small run."""
    values = {"steps": 2, "count": 2, "seed": 3}
    body = {"data": [values.get(name) for name in PARAMETERS]}
    event = client.post(f"{API}/call/generate", json=body).json()["event_id"]
    text = client.get(f"{API}/call/generate/{event}").text
    gallery, *_ = json.loads(text.rpartition("data:")[2])
    return [client.get(f"{API}/file={entry['image']['path']}").content for entry in gallery]


def _png(side: int, text: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = {
        b"IHDR": header,
        b"zTXt": b"stepwise\0\0" + zlib.compress(text),
        b"IDAT": zlib.compress(bytes(20)),
        b"IEND": b"",
    }
    packed = [struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _form(name: str, content: bytes) -> bytes:
    head = f'--edge\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--edge--\r\n"


def show(rows: list[Row]) -> str:
    """Kinds of calls by kinds of answers, and each call that was not answered well."""
    *calls, last = rows
    counts = {kind: Counter(row["answer"] for row in calls if row["kind"] == kind) for kind in _kinds(calls)}
    lines = [[kind, *(str(found[name]) for name in ANSWERS)] for kind, found in counts.items()]
    total = Counter(row["answer"] for row in calls)
    lines.append(["all", *(str(total[name]) for name in ANSWERS)])
    bad = [
        f"{row['kind']}, {row['call']}: {row['answer']}: {row['words']!r}" for row in calls if row["answer"] not in GOOD
    ]
    ending = "and then draws as before" if last["answer"] in GOOD else "and then does not draw as before"
    return "\n".join([table(["calls", *ANSWERS], lines), "", *bad, f"{len(calls)} calls; the page stands, {ending}"])


def _kinds(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in rows))


def main(arguments: list[str] | None = None) -> None:
    """The command line; exits with status 1 if something leaked, or a call or the run afterwards has no answer."""
    rows = command_line(Options, run_all, show, "benchmarks.hostile", __doc__, arguments)
    if any(row["answer"] in ("no answer", "leaked") for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
