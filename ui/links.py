"""Links to the page that draw again what it shows: everything that decides the images stands in the address.

    ?model=fashion-cfg&class_name=Sneaker&steps=8&guidance_scale=2.0&seed=7&count=16&sampler=UniPC&...&draw=1

Without `draw` a link opens the page with its settings, and the visitor draws.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from .catalogue import Catalogue, ModelInfo
from .fields import FIELDS, LABELS, NOISE, ROWS
from .settings import Settings, kept_by_hand, misfits

DRAW = "draw"
TAB, GENERATE = "tab", "generate"  # the first is the name of the second in a link
TIED = {row.name: row.at_most for row in ROWS if row.at_most}
TIED |= {bound: name for name, bound in TIED.items()}

# run in the browser. In a page that came over plain HTTP, scripts may not write to the clipboard: there it is shown
COPY = """async (query) => {
    const link = location.origin + location.pathname + query;
    try {
        await navigator.clipboard.writeText(link);
        return "Link copied";
    } catch {
        window.prompt("Copy this link:", link);
        return "Copy link";
    }
}"""
LATER = """async () => {
    await new Promise(done => setTimeout(done, 2000));
    return "Copy link";
}"""
PRESS_DRAW = f"""() => {{
    const asked = new URLSearchParams(location.search).get("{DRAW}") === "1";
    if (asked && !document.querySelector("#status [role=alert]")) document.querySelector("#draw")?.click();
}}"""

# Gradio fetches its documentation when the mouse comes to the button below the page, and does not show it before: a
# link to it is answered by pressing that button, off and on
SHOW_API = """() => {
    const button = document.querySelector("footer .show-api");
    if (!button || new URLSearchParams(location.search).get("view") !== "api") return;
    button.click();
    setTimeout(() => button.click());
}"""


def of_tab(link: Mapping[str, Any], tab: str) -> dict[str, Any]:
    """What a link says to a tab: all of it, or nothing where it opens another one; Generate unless it says which."""
    return dict(link) if link.get(TAB, GENERATE) == tab else {}


def query(settings: Settings, info: ModelInfo) -> str:
    """The part of the address from "?" on. It holds what counts, so that nothing that a browser remembers gets in.

    An image that a run began with is in no link: the page that it opens asks for it, and does not draw by itself.
    """
    values = {name: value for name, value in settings.as_dict().items() if settings.has(name, info)}
    if values.get("start", NOISE) == NOISE:
        values[DRAW] = 1
    return f"?{urlencode(values)}"


def opened(link: Mapping[str, Any], remembered: Mapping[str, Any], catalogue: Catalogue) -> tuple[Settings, bool, str]:
    """The settings of a page that a link opens: the link's, then what the browser remembers and the link allows.

    Also whether the link says which seed, and what of it was left out, in the labels' words; "" for nothing.
    """
    model = {"model": remembered["model"]} if remembered.get("model") in catalogue.names else {}
    asked = {name: link[name] for name in FIELDS if name in link}
    wrong = misfits(model | asked, catalogue, LABELS)
    asked = {name: value for name, value in asked.items() if name not in wrong}
    if asked.get("model", remembered.get("model")) != remembered.get("model"):
        remembered = kept_by_hand(remembered, catalogue)
    others = {name: value for name, value in remembered.items() if TIED.get(name) not in asked}
    return Settings.recalled(others | asked, catalogue), "seed" in asked, "; ".join(wrong.values())
