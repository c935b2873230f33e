"""What the page has beside its components: keys, names for screen readers, its icon, and the card of a shared link.

Gradio's own page calls itself Gradio in the cards that messengers show of a link, so that its lines are replaced on
their way out.
"""

import re
from collections.abc import Callable, MutableMapping
from html import escape
from pathlib import Path
from typing import Any

TITLE, SUMMARY = "Stepwise", "Diffusion models you can see, train and share"
ICON, CARD = (Path(__file__).with_name(name) for name in ("icon.png", "card.png"))
CARD_ADDRESS = "/card.png"

# in the browser: press Draw, and bring into sight what it draws; not smoothly, as the page grows meanwhile
PRESS_DRAW = """() => {
    pressWhenReady();
    document.querySelector("#status")?.scrollIntoView({block: "nearest"});
}"""

# While a run goes on, a press of Draw waits for its end; Stop ends that, too. Ctrl+Enter presses the button of the tab
# that is open: a box is left and entered again, so that what was typed counts. Where Gradio names an
# upload or a tile otherwise than it reads, voice control does not find it.
HEAD = f"""<meta name="description" content="{SUMMARY}">
<script>
let waiting = 0;
const pressWhenReady = () => {{
    clearInterval(waiting);
    const press = () => {{
        const button = document.querySelector("#draw");
        if (button?.disabled) return false;
        clearInterval(waiting);
        button?.click();
        return true;
    }};
    if (!press()) waiting = setInterval(press, 100);
}};
document.addEventListener("click", (event) => {{
    if (event.target.closest?.("#stop")) clearInterval(waiting);
}});
const pressDraw = {PRESS_DRAW};
const pressVisible = () => {{
    const buttons = [...document.querySelectorAll("#draw, #compare, #own-run")];
    const button = buttons.find((each) => each.offsetParent !== null);
    if (button?.id === "draw") pressDraw(); else button?.click();
}};
document.addEventListener("keydown", (event) => {{
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    const box = document.activeElement;
    box?.blur();
    box?.focus({{preventScroll: true}});
    setTimeout(pressVisible, 50);
}});
const misnamed = "button.upload-container[aria-label], #runs .thumbnail-item[aria-label]";
new MutationObserver(() => {{
    document.querySelectorAll(misnamed).forEach((button) => button.removeAttribute("aria-label"));
}}).observe(document.documentElement, {{subtree: true, childList: true, attributeFilter: ["aria-label"]}});
</script>"""

Scope = MutableMapping[str, Any]
_OTHERS = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')


class PreviewCard:
    """ASGI middleware: the page says of itself what it is, and its card's image is served."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        """Answer for the image, rewrite the page, and pass on everything else."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        if path == CARD_ADDRESS:
            await _send_image(send)
        elif path == "/":
            await self.app(scope, receive, _Rewriter(scope, send))
        else:
            await self.app(scope, receive, send)


class _Rewriter:
    """Holds back the headers of a page until its body, whose length changes, is there."""

    def __init__(self, scope: Scope, send: Callable) -> None:
        self.scope, self.send, self.start, self.body = scope, send, {}, b""

    async def __call__(self, message: Scope) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = with_card(self.body, address(self.scope))
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        await self.send(self.start | {"headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.send({"type": "http.response.body", "body": body})


def address(scope: Scope) -> str:
    """Where the visitor's browser found the page: behind a proxy, as that says."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    scheme = headers.get("x-forwarded-proto", scope.get("scheme", "http")).split(",")[0]
    host = headers.get("x-forwarded-host", headers.get("host", "")).split(",")[0]
    return f"{scheme.strip()}://{host.strip()}{scope.get('root_path', '')}"


def with_card(page: bytes, base: str) -> bytes:
    """A page of Gradio with our lines for the card instead of its own."""
    image = escape(base + CARD_ADDRESS)
    says = {"title": TITLE, "description": SUMMARY, "image": image, "url": escape(base + "/"), "type": "website"}
    lines = [f'<meta property="og:{name}" content="{value}">' for name, value in says.items()]
    lines += [f'<meta name="twitter:{name}" content="{says[name]}">' for name in ("title", "description", "image")]
    lines += ['<meta name="twitter:card" content="summary_large_image">']
    lines += ['<link rel="icon" type="image/png" href="favicon.ico"><link rel="apple-touch-icon" href="favicon.ico">']
    return _OTHERS.sub(b"", page).replace(b"<head>", b"<head>" + "".join(lines).encode(), 1)


async def _send_image(send: Callable) -> None:
    body = CARD.read_bytes()
    headers = [(b"content-type", b"image/png"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
