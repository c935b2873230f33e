"""The page in a real browser, and its endpoint, over a server started as a user starts it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from served import free_port, wait_for
from test_ui import ROOT, save_models
from text_models import text_pipeline

from ui.head import address, with_card
from ui.own_image.samples import samples

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 60_000  # milliseconds; the cores may be busy with something else


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python app.py --model ...` with three tiny models, and one whose runs take long, until the page answers."""
    folder = tmp_path_factory.mktemp("served")
    port = free_port()
    words = text_pipeline(example_prompts="a red apple, my style|a fox", prompt_styles="my style|your style")
    words.save_pretrained(folder / "words")
    models = [*save_models(folder).values(), ROOT / "model_cards" / "fashion-ddpm", folder / "words"]
    flags = [part for path in models for part in ("--model", str(path))]
    environment = os.environ | {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "GRADIO_TEMP_DIR": str(folder / "cache"),
    }
    log = (folder / "log").open("w")
    command = [sys.executable, "app.py", *flags, "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/", server, folder / "log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Callable[..., Page]]:
    """Opens the page as a new visitor; in the end, nobody may have met an error in the console."""
    errors: list[str] = []
    pages: list[Page] = []
    context = browser.contexts[0] if browser.contexts else browser.new_context()  # one cache for all of the scripts
    context.set_default_timeout(PATIENCE)

    def open_page(width: int = 1280, height: int = 900, query: str = "") -> Page:
        page = context.new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url + query)
        opened = "Drawn in" if "draw=1" in query else "Samples of"
        expect(page.locator("#status")).to_contain_text(opened, timeout=PATIENCE)
        return page

    yield open_page
    for page in pages:
        page.evaluate("localStorage.clear()")
        page.close()
    assert [error for error in errors if "422" not in error] == []


def draw(page: Page) -> None:
    """Press Draw and wait for the images."""
    page.locator("#draw").click()
    expect(page.locator("#status")).not_to_contain_text("Drawn in", timeout=PATIENCE)
    expect(page.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    expect(page.locator("#draw")).to_be_enabled(timeout=PATIENCE)


def set_number(page: Page, label: str, value: str) -> None:
    """Type into the number box of a slider or a number field."""
    box = page.get_by_label(f"number input for {label}").or_(page.get_by_label(label, exact=True)).first
    box.fill(value)
    box.press("Tab")


def shown(page: Page) -> str:
    """Address of the big image."""
    return page.locator("#preview img").get_attribute("src") or ""


def noise_images(page: Page) -> list[bytes]:
    """The files of the gallery."""
    sources = [image.get_attribute("src") or "" for image in page.locator("#gallery .grid-container img").all()]
    return [page.request.get(source).body() for source in sources]


@contextmanager
def watched(page: Page) -> Iterator[Callable[[], list[str]]]:
    """Record each image that the page shows meanwhile."""
    page.evaluate(
        """() => {
            window.seen = [];
            const look = () => {
                const image = document.querySelector('#preview img');
                window.seen.push(image ? image.src : 'nothing');
            };
            window.eye = new MutationObserver(look);
            window.eye.observe(document.querySelector('#preview'), {subtree: true, childList: true, attributes: true});
        }"""
    )
    yield lambda: page.evaluate("[...new Set(window.seen)]")
    page.evaluate("window.eye.disconnect()")


def test_a_phone_opens_it_draws_and_never_scrolls_sideways(visit: Callable[..., Page]) -> None:
    page = visit(390, 844)
    assert shown(page) and page.locator("#preview img").get_attribute("alt")
    draw(page)
    page.get_by_role("button", name="Advanced").click()
    page.get_by_role("button", name="The Python that made this").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#draw").bounding_box()["y"] < page.locator("#class").bounding_box()["y"]
    assert page.locator("#gallery .grid-container img").count() == 16
    assert all(image.get_attribute("alt") for image in page.locator("#gallery img").all())
    assert page.evaluate(SMALL) == []
    assert page.evaluate(UNREADABLE) == []

    assert page.locator("#gallery").is_visible() and not page.locator("#preview").is_visible()
    page.locator("#gallery button.thumbnail-item").nth(2).click()
    expect(page.locator("#viewer")).to_contain_text("image 3 of 16", timeout=PATIENCE)
    assert not page.locator("#gallery").is_visible() and not page.locator("#preview").is_visible()
    assert page.evaluate(SMALL) == [] and page.evaluate(UNREADABLE) == []
    with page.expect_download() as download:
        page.get_by_text("x8, 64 x 64").click()
    assert Image.open(download.value.path()).size == (64, 64)
    page.locator("#use").click()
    expect(page.get_by_label("number input for Images")).to_have_value("1", timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_draws_and_a_shared_link_has_a_card(visit: Callable[..., Page], url: str) -> None:
    page = visit(query="?model=tiny-ddpm&steps=2&count=1&__theme=dark")
    names = []
    while "draw" not in names and len(names) < 9:
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id"))
    assert names[-1] == "draw"
    box = page.get_by_label("number input for Steps")
    box.fill("3")
    box.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("Drawn in 3 steps", timeout=PATIENCE)
    page.get_by_role("tab", name="Laboratory").click()
    expect(page.locator("#lab-status")).to_contain_text("drawn in", timeout=PATIENCE)
    page.keyboard.press("Control+Enter")  # which presses nothing of another tab
    page.wait_for_timeout(500)
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#draw")).to_be_enabled()
    expect(page.locator("#status")).to_contain_text("Drawn in 3 steps")
    for accordion in page.locator("button.label-wrap:visible").all():
        accordion.click()
    assert page.evaluate(UNREADABLE) == []
    card = dict(re.findall(r'<meta property="og:(\w+)" content="(.*?)">', page.request.get(url).text()))
    assert card["title"] == "Stepwise" and card["image"] == f"{url}card.png"
    for image, size in ((card["image"], (1200, 630)), (f"{url}favicon.ico", (256, 256))):
        assert Image.open(BytesIO(page.request.get(image).body())).size == size


def test_the_address_on_the_card_is_that_of_the_proxy() -> None:
    headers = [
        (b"host", b"127.0.0.1:7860"),
        (b"x-forwarded-host", b"me-demo.hf.space"),
        (b"x-forwarded-proto", b"https"),
    ]
    base = address({"headers": headers, "scheme": "http", "root_path": ""})
    page = (
        b'<head>\n<meta property="og:title" content="Gradio" />\n<meta\n name="twitter:title"\n content="G" /></head>'
    )
    assert base == "https://me-demo.hf.space" and b"Gradio" not in with_card(page, base)
    assert b'"og:image" content="https://me-demo.hf.space/card.png"' in with_card(page, base)
    assert b"&quot;&gt;" in with_card(page, '"><script>') and b"<script>" not in with_card(page, '"><script>')


# what WCAG AA asks of text, 4.5:1 or 3:1 where it is large, and what of fingers; both of what is seen
UNREADABLE = """() => {
    const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const [r, g, b, a = 1] = parts(getComputedStyle(e).backgroundColor);
            if (a === 1) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const dim = (element) => element.closest("[disabled], svg, .toast-wrap, .cm-gutters, [aria-hidden=true]");
    const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
        && element.getBoundingClientRect().width > 1 && !dim(element)
        && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
    return texts.flatMap((element) => {
        const style = getComputedStyle(element), [a, b] = [light(parts(style.color)), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) * Number(style.opacity);
        const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        return ratio < (large ? 3 : 4.5) ? [`${ratio.toFixed(2)} ${element.innerText.slice(0, 40)}`] : [];
    });
}"""
SMALL = """() => [...document.querySelectorAll("button, a, input, select, textarea")].flatMap((element) => {
    const target = element.closest("fieldset label, a") ?? element, {width, height} = target.getBoundingClientRect();
    const seen = target.checkVisibility({visibilityProperty: true}) && width > 1 && height > 1;
    const name = element.ariaLabel ?? element.labels?.[0]?.innerText ?? element.innerText;
    return seen && Math.min(width, height) < 43.5 ? [`${name} ${width}x${height}`] : [];
})"""


def test_the_run_is_seen_looked_back_on_and_repeated(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit()
    set_number(page, "Steps", "12")
    set_number(page, "Images", "3")
    set_number(page, "Seed", "41")
    expect(page.get_by_role("radio", name="keep")).to_be_checked()
    set_number(page, "Steps", "300")  # a busy browser does not show every step
    with watched(page) as seen:
        draw(page)
        assert len(seen()) >= 6 and "nothing" not in seen()
    set_number(page, "Steps", "12")
    draw(page)
    expect(page.locator("#status")).to_contain_text("12 steps")
    expect(page.locator("#status")).to_contain_text("19 network evaluations per image")
    first, last = noise_images(page), shown(page)
    assert len(first) == 3

    set_number(page, "Look back over the steps", "3")
    expect(page.locator("#status")).to_contain_text("step 3 of 12", timeout=PATIENCE)
    expect(page.locator("#captions")).to_contain_text("noisy xt")
    assert shown(page) != last
    page.locator("#play").click()
    expect(page.locator("#status")).to_contain_text("the images after step 12 of 12", timeout=PATIENCE)
    expect(page.get_by_label("number input for Look back over the steps")).to_have_value("12")
    with page.expect_download() as download:
        page.locator("#save-film").click()
    with Image.open(download.value.path()) as film:
        assert film.format == "GIF" and film.n_frames in (12, 13)  # the last prediction may equal the images

    draw(page)
    assert noise_images(page) == first
    set_number(page, "Images", "2")
    draw(page)
    again = [Image.open(_file(tmp_path, content)) for content in (first[1], noise_images(page)[1])]
    assert again[0].tobytes() == again[1].tobytes()
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.locator("#copy-link").click()
    expect(page.locator("#copy-link")).to_have_text("Link copied")
    assert re.search(r"seed=41&count=2&.*draw=1$", page.evaluate("window.copied"))
    set_number(page, "Steps", "300")
    page.get_by_role("radio", name="Bag").check()
    expect(page.locator("#status")).to_contain_text(re.compile(r"Step \d+ of"), timeout=PATIENCE)
    page.get_by_role("radio", name="Ankle boot").check()  # while it is drawn: the press waits
    expect(page.locator("#gallery")).to_contain_text("Ankle boot · seed 41", timeout=PATIENCE)
    expect(page.locator("#draw")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    expect(page.get_by_label("Seed", exact=True)).to_have_value("41")
    page.locator("#dice").click()
    expect(page.get_by_label("Seed", exact=True)).not_to_have_value("41")
    set_number(page, "Seed", "41")

    page.reload()
    expect(page.locator("#status")).to_contain_text("Samples of", timeout=PATIENCE)
    expect(page.get_by_label("Seed", exact=True)).to_have_value("41")
    expect(page.get_by_role("radio", name="keep")).to_be_checked()
    page.get_by_role("button", name="Advanced").click()
    page.locator("#advanced input[type=file]").set_input_files(_file(tmp_path, first[2]))
    expect(page.get_by_label("Seed", exact=True)).to_have_value("43", timeout=PATIENCE)
    expect(page.get_by_label("number input for Images")).to_have_value("3")


def _file(folder: Path, content: bytes) -> Path:
    path = folder / f"{hash(content)}.png"
    path.write_bytes(content)
    return path


def test_stop_ends_the_work_bad_values_are_named_and_the_next_run_works(visit: Callable[..., Page]) -> None:
    page = visit(query="?model=fashion-ddpm&steps=1000&sampler=Heun")  # minutes, unless it is stopped
    page.locator("#draw").click()
    expect(page.locator("#status")).to_contain_text(re.compile(r"Step ([5-9]\d|\d{3,}) of 1999"), timeout=PATIENCE)
    seed = re.search(r"seed (\d+)", page.locator("#status").inner_text()).group(1)
    expect(page.get_by_label("Seed", exact=True)).to_have_value(seed)
    set_number(page, "Seed", "12")  # for the next run
    page.locator("#stop").click(force=True)  # without waiting for a page that is repainted at every step to stand still
    expect(page.locator("#status")).to_contain_text("Stopped after", timeout=PATIENCE)
    stopped = int(re.search(r"step (\d+) of 1999", page.locator("#status").inner_text()).group(1))
    assert stopped < 1990
    expect(page.get_by_label("Seed", exact=True)).to_have_value("12")
    expect(page.locator("#scrubber")).to_be_visible()

    set_number(page, "Seed", "-3")
    page.locator("#draw").click()
    expect(page.locator("#status")).to_contain_text("Seed must be a whole number", timeout=PATIENCE)
    set_number(page, "Seed", "3")
    set_number(page, "Steps", "2")
    draw(page)
    expect(page.locator("#status")).to_contain_text("Drawn in 3 steps")  # Heun takes 2 n - 1


def test_controls_follow_the_model(visit: Callable[..., Page]) -> None:
    page = visit(query="?seed=5&model=tiny-cfg&class_name=Coat")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("5")
    expect(page.get_by_role("radio", name="Coat")).to_be_checked()
    page.get_by_role("radio", name="tiny-ddpm").check()
    expect(page.get_by_text("Guidance scale")).to_be_hidden(timeout=PATIENCE)
    expect(page.locator("#class")).to_be_hidden()
    page.get_by_role("button", name="Advanced").click()
    expect(page.get_by_label("number input for Eta")).to_be_hidden()
    page.get_by_role("radio", name="DDIM").check()
    expect(page.get_by_label("number input for Eta")).to_be_visible(timeout=PATIENCE)
    draw(page)
    expect(page.locator("#status")).to_contain_text("8 network evaluations per image")

    page.get_by_role("tab", name="Compare").click()  # with the model of Generate, which has no classes
    expect(page.locator("#compare-estimate")).to_contain_text("4 images, 30 steps: ", timeout=PATIENCE)
    expect(page.locator("#compare-estimate")).to_contain_text(re.compile(r"Sampler\sDDIM"))
    page.locator("#compare").click()
    expect(page.locator("#compare-status")).to_contain_text("4 images drawn", timeout=PATIENCE)
    sheet = page.locator("#compare-sheet img")
    assert sheet.get_attribute("alt") == "Comparison of Steps: 4 of 4 images"
    drawn = Image.open(BytesIO(page.request.get(sheet.get_attribute("src")).body()))
    assert json.loads(drawn.info["stepwise"])["compare"] == {"x": {"setting": "steps", "values": [2, 4, 8, 16]}}


def test_words_are_typed_styled_and_painted_into_an_image(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit(query="?model=words&steps=2&count=1")
    prompt = page.locator("#prompt textarea, #prompt input").first
    expect(prompt).to_have_value("a red apple, my style")
    page.get_by_role("radio", name="keep").check()  # of the seed: what differs is what was asked for
    page.locator("#styles").get_by_text("your", exact=True).click()
    expect(prompt).to_have_value("a red apple, your style")
    draw(page)
    apple = noise_images(page)
    page.locator("#examples").get_by_text("a fox").click()
    expect(prompt).to_have_value("a fox")
    expect(page.locator("#status")).not_to_contain_text("Drawn in", timeout=PATIENCE)
    expect(page.locator("#status")).to_contain_text("Drawn in 2 steps", timeout=PATIENCE)
    fox = noise_images(page)
    assert apple != fox
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Negative prompt").fill("fox")
    draw(page)
    assert noise_images(page) != fox

    known = Image.new("RGB", (16, 16), (10, 200, 30))
    known.save(tmp_path / "green.png")
    page.get_by_role("button", name="Start from an image").click()
    page.locator("#start input[type=file]").first.set_input_files(tmp_path / "green.png")
    canvas = page.locator("#start-editor canvas").first
    expect(canvas).to_be_visible()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    draw(page)
    with Image.open(_file(tmp_path, noise_images(page)[0])) as drawn:
        kept = [pair[0] == pair[1] for pair in zip(drawn.convert("RGB").getdata(), known.getdata(), strict=True)]
    rows = [kept[16 * row : 16 * row + 16] for row in range(16)]
    assert all(all(row) for row in (*rows[:4], *rows[-4:])), "what was not painted over is kept"
    assert not all(rows[8][4:8]), "the rest is drawn anew"


def test_the_laboratory_is_linked_dragged_played_and_fits_a_phone(visit: Callable[..., Page]) -> None:
    page = visit(query="?tab=laboratory&distribution=2-D%2C+three+Gaussians&process=DDIM&steps=10&eta=0.5&seed=x")
    expect(page.locator("#lab-left-out")).to_contain_text("Seed must be a whole number", timeout=PATIENCE)
    canvas, handle = page.locator("#lab-canvas canvas").first, page.locator(".lab-handle").first
    expect(canvas).to_have_attribute("data-frame", "10", timeout=PATIENCE)
    assert "DDIM" in canvas.get_attribute("aria-label")
    said = handle.get_attribute("aria-label")
    box = handle.bounding_box()
    page.mouse.move(box["x"] + 22, box["y"] + 22)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60, steps=3)
    page.mouse.up()
    expect(handle).not_to_have_attribute("aria-label", said, timeout=PATIENCE)
    handle.press("ArrowLeft")
    handle.press("+")
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    for _ in range(PATIENCE // 200):  # until what was moved has been drawn
        page.locator("#lab-copy").click()
        page.wait_for_timeout(200)
        if "components=%5B%5B" in page.evaluate("window.copied ?? ''"):
            break
    assert re.search(r"tab=laboratory&.*components=%5B%5B.*eta=0.5", page.evaluate("window.copied"))

    slider = page.locator("#lab-canvas input[type=range]").first
    slider.focus()
    slider.press("Home")
    expect(canvas).to_have_attribute("data-frame", "0", timeout=PATIENCE)
    page.locator("#lab-canvas .lab-play").first.click()
    expect(canvas).to_have_attribute("data-frame", "10", timeout=PATIENCE)

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(SMALL) == [] and page.evaluate(UNREADABLE) == []


def test_settings_beyond_the_reach_of_the_handles_are_drawn(visit: Callable[..., Page]) -> None:
    page = visit(query="?model=tiny-cfg&steps=120&guidance_scale=12&count=1&draw=1")
    expect(page.get_by_label("number input for Steps")).to_have_value("120")
    expect(page.locator("#status")).to_contain_text("Drawn in 120 steps")


def test_the_endpoint_draws_with_no_argument_and_names_bad_values(url: str, tmp_path: Path) -> None:
    client = Client(url, verbose=False, download_files=str(tmp_path))
    gallery, report, code = client.predict(api_name="/generate")
    assert len(gallery) == 16 and json.loads(report)["network_evaluations"] == 13 and "from_pretrained" in code
    assert "stepwise" in Image.open(gallery[0]["image"]).info
    gallery, report, _ = client.predict(model="tiny-ddpm", count=2, steps=3, seed=5, api_name="/generate")
    assert len(gallery) == 2 and json.loads(report)["seed"] == 5
    bad = {"steps": 0, "guidance_scale": "nan", "seed": -1, "count": 17, "class_name": "Unicorn", "model": "none"}
    for field, value in bad.items():
        with pytest.raises(Exception, match=f"{field} must be"):
            client.predict(**{field: value}, api_name="/generate")
    drawn = client.predict(process="flow", steps=3, distribution="2-D, ring", api_name="/laboratory")
    assert drawn["settings"]["process"] == "flow" and drawn["plots"][0]["frames"] == 4
    for field, value in {"steps": 0, "components": "[]", "view": "none"}.items():
        with pytest.raises(Exception, match=f"{field} must be"):
            client.predict(**{field: value}, api_name="/laboratory")


def test_the_endpoints_of_an_image_answer_without_an_argument_and_name_bad_values(url: str, tmp_path: Path) -> None:
    client = Client(url, verbose=False, download_files=str(tmp_path))
    Image.new("RGB", (30, 20), "white").save(tmp_path / "mine.png")
    file = handle_file(tmp_path / "mine.png")
    images, report = client.predict(t=300, api_name="/own_image")
    assert [each["caption"] for each in images] == ["x0", "x_t", "predicted", "eps", "x_s"]
    found = json.loads(report)
    assert found["settings"]["t"] == 300 and found["a"] ** 2 + found["b"] ** 2 == pytest.approx(1) and found["loss"] > 0
    images, report = client.predict(model="tiny-ddpm", steps=2, file=file, api_name="/own_image_over_t")
    found = json.loads(report)
    assert images[-1]["caption"] == "returned" and found["settings"]["image"] == "your own"
    assert len(found["losses"]) == len(found["timesteps"]) == 32 and found["timesteps"][0] == 0
    images, found = client.predict(t=150, checkpoint=1, api_name="/exact_or_learned")
    assert len(images) > 4 and found["apart"] > 0 and found["plots"]
    bad = {"/own_image": {"t": 1000, "image": "your own", "model": "none"}, "/own_image_over_t": {"steps": 0}}
    bad |= {"/exact_or_learned": {"t": 7, "checkpoint": 0, "told": "all"}}
    for name, values in bad.items():
        for field, value in values.items():
            with pytest.raises(Exception, match=f"{'file' if value == 'your own' else field} must be"):
                client.predict(**{field: value}, api_name=name)
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(Exception, match="file: file must be an image that can be read"):
        client.predict(file=handle_file(tmp_path / "note.png"), api_name="/own_image_over_t")
    with pytest.raises(Exception, match="file must be left out with image"):
        client.predict(file=file, image=next(iter(samples())), api_name="/own_image")
