"""The queue of runs, over a server with visitors: one's place, leaving it, who is not listening, how much is taken."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import httpx
import pytest
from served import free_port
from test_ui import save_models

from ui import LAUNCH, build_demo, device, queueing
from ui.catalogue import Catalogue
from ui.device import Placement
from ui.tabs import generate

AT_MOST = 20.0  # seconds for an answer; the cores may be busy with something else


class Visitor:
    """A session that asks, and listens only when told to."""

    def __init__(self, address: str, demo: gr.Blocks, session: str) -> None:
        self.demo, self.session = demo, session
        self.http = httpx.Client(base_url=f"{address}gradio_api/", timeout=AT_MOST)

    def asks(self, name: str, steps: int = 1, count: int = 1) -> httpx.Response:
        """Join the queue for the handler of that name, its other inputs as they are on the page."""
        handler = next(fn for fn in self.demo.fns.values() if fn.name == name)
        asked = {"steps": steps, "count": count, "Steps": steps, "Images": count}
        values = [asked.get(block.label, getattr(block, "value", None)) for block in handler.inputs]
        body = {"fn_index": handler._id, "data": values, "session_hash": self.session}
        return self.http.post("queue/join" if handler.queue else "run/predict", json=body)

    def hears(self) -> Iterator[dict[str, Any]]:
        """The messages for this session, until it has no more events."""
        with self.http.stream("GET", "queue/data", params={"session_hash": self.session}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, gr.Blocks]]:
    """The page over two tiny models, loaded, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        catalogue = Catalogue(save_models(tmp_path_factory.mktemp("queued")))
        catalogue.pipeline("tiny-cfg")
        demo = build_demo(catalogue)
        _, address, _ = demo.launch(server_port=free_port(), prevent_thread_lock=True, quiet=True, **LAUNCH)
        yield address, demo
        demo.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Runs of the page do not go on until it is set."""
    opened, draw = threading.Event(), generate.draw

    def slow(*args: Any, **kwargs: Any) -> Iterator[Any]:
        opened.wait(AT_MOST)
        yield from draw(*args, **kwargs)

    monkeypatch.setattr(generate, "draw", slow)
    yield opened
    opened.set()


def until(condition: Any) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + AT_MOST
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_runs_that_nobody_listens_to_do_not_keep_the_next_visitor_waiting(
    served: tuple[str, gr.Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "PATIENCE", 0.3)
    silent, next_one = (Visitor(*served, session) for session in ("silent", "next"))
    for _ in range(3):  # seconds each
        assert silent.asks("generate", steps=1000, count=16).status_code == 200
    time.sleep(0.4)
    begun = time.monotonic()
    next_one.asks("generate")
    *_, done, _ = next_one.hears()
    assert done["success"] and len(done["output"]["data"][0]) == 1
    assert time.monotonic() - begun < 4
    late = [message for message in silent.hears() if message["msg"] == "process_completed"]
    assert len(late) == 3 and all(message["output"]["error"] == queueing.UNHEARD for message in late)


def test_a_listener_that_comes_late_is_waited_for_while_nobody_else_waits(
    served: tuple[str, gr.Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "PATIENCE", 0.1)
    slow = Visitor(*served, "slow")
    slow.asks("generate", steps=100, count=1)
    time.sleep(0.5)
    assert [end["success"] for end in _ended(list(slow.hears()))] == [True]


def test_a_visitor_who_waits_sees_its_place_and_stop_leaves_the_queue(
    served: tuple[str, gr.Blocks], gate: threading.Event
) -> None:
    first, second, third = (Visitor(*served, session) for session in ("first", "second", "third"))
    heard: dict[str, list[dict[str, Any]]] = {"first": [], "second": [], "third": []}
    for visitor in (first, second, third):
        assert visitor.asks("run").status_code == visitor.asks("wait").status_code == 200
        threading.Thread(target=_listen, args=(visitor, heard[visitor.session]), daemon=True).start()
        assert until(lambda v=visitor: heard[v.session])
    assert until(lambda: "2 runs come before yours" in json.dumps(heard["third"]))
    assert until(lambda: "1 run comes before yours" in json.dumps(heard["second"]))
    kinds = [fn.outputs[1] for fn in served[1].fns.values() if fn.name == "run"]  # status lines of all tabs
    assert [served[1]._queue.before("second", line) for line in kinds] == [1, None, None]
    second.asks("stop")
    assert until(lambda: _ended(heard["second"]))
    assert [end["success"] for end in _ended(heard["second"])] == [False]
    assert until(lambda: "1 run comes before yours" in json.dumps(heard["third"]))
    assert "You left the queue" in second.asks("give_up").text
    gate.set()
    assert until(lambda: _ended(heard["third"])) and _ended(heard["third"])[0]["success"]
    assert until(lambda: sum(message["msg"] == "process_completed" for message in heard["first"]) == 2)
    shown = [
        end["output"]["data"] for who in ("first", "third") for end in heard[who] if end["msg"] == "process_completed"
    ]
    assert [None] not in shown, "the end of the waiting empties the status line of the run"


def _listen(visitor: Visitor, heard: list[dict[str, Any]]) -> None:
    for message in visitor.hears():
        heard.append(message)


def _ended(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ends of runs, which have more than the status to show or an error."""
    ends = [message for message in messages if message["msg"] == "process_completed"]
    return [end for end in ends if not end["success"] or len(end["output"].get("data", [])) > 1]


def test_only_so_many_runs_wait(
    served: tuple[str, gr.Blocks], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = served[1]._queue
    assert queue.max_size == queueing.MOST_WAITING
    monkeypatch.setattr(queue, "max_size", 1)
    visitor = Visitor(*served, "crowd")
    asked = [visitor.asks("run") for _ in range(2)]
    assert until(lambda: len(queue) == 1)
    refused = visitor.asks("run")
    assert refused.status_code == 503 and [one.status_code for one in asked] == [200, 200]
    visitor.asks("stop")
    gate.set()
    assert [message["msg"] for message in visitor.hears()].count("process_completed") == 2


def test_an_upload_larger_than_a_photograph_is_refused(
    served: tuple[str, gr.Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served[1].max_file_size == 20 * 1024**2
    monkeypatch.setattr(served[1], "max_file_size", 1024)
    large = {"files": ("large.png", bytes(1025))}
    assert Visitor(*served, "large").http.post("upload", files=large).status_code == 413
