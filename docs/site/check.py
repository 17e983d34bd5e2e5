"""Look at the built site as a reader's browser does: every page in headless Chromium, and nothing but what the site serves.

    pip install -e ".[site]" && mkdocs build --strict -f docs/mkdocs.yml
    python docs/site/check.py                                    # every page; exit code 1 and a list if anything is wrong
    python docs/site/check.py --width 390                        # as on a phone
    python docs/site/check.py --only docs/ --screenshots shots --dark

Wrong is: an error on the console, a request to another host or one that is not answered, a picture without pixels, a formula or a
diagram that is not drawn, a `$` that was meant as one, a slider that is not to be seen or moves nothing, a page wider than the
window, and a link of the site to a page or a place in it that does not exist.

Chromium is the one on the path (`apt install chromium`), else the one that `playwright install chromium` brought.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from playwright.sync_api import Browser, Error, Page, Route, sync_playwright

SITE = Path(__file__).resolve().parents[2] / ".site" / "html"

LOOK = r"""async () => {
  const wrong = [], text = element => element.textContent.trim().slice(0, 60);
  for (const image of document.images) {
    image.loading = "eager";
    await image.decode().catch(() => 0);
    if (!image.naturalWidth) wrong.push(`a picture without pixels: ${image.src.slice(0, 120)}`);
  }
  for (const formula of document.querySelectorAll(".arithmatex"))
    if (!formula.querySelector(".katex") || formula.querySelector(".katex-error")) wrong.push(`a formula: ${text(formula)}`);
  for (const diagram of document.querySelectorAll("pre.diagram, .language-mermaid"))
    if (!diagram.querySelector("svg")?.getBoundingClientRect().width) wrong.push(`a diagram: ${text(diagram)}`);
  const content = document.querySelector(".md-content").cloneNode(true);
  content.querySelectorAll("pre, code, script, style, .katex").forEach(element => element.remove());
  const left = content.textContent.match(/\$[^\s$][^$\n]*\$|\\[([]|```|\]\([^)]*\)|\*\*[^*\s]+\*\*/);
  if (left) wrong.push(`Markdown that nobody rendered: ${left[0].slice(0, 60)}`);
  for (const slider of document.querySelectorAll("input[type=range]")) {
    const box = slider.closest(".output"), before = box.innerHTML, canvas = box.querySelector("canvas");
    const drawn = canvas?.toDataURL();
    slider.value = slider.value === slider.max ? slider.min : slider.max;
    for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, { bubbles: true }));
    await new Promise(done => setTimeout(done, 100));
    if (!slider.getBoundingClientRect().width) wrong.push("a slider that is not to be seen");
    if (box.innerHTML === before && canvas?.toDataURL() === drawn) wrong.push("a slider that moves nothing");
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > window.innerWidth) wrong.push(`${wide} px wide in a window of ${window.innerWidth}`);
  return {
    wrong,
    ids: [...document.querySelectorAll("[id]")].map(element => element.id),
    links: [...document.querySelectorAll("a[href]")].map(link => link.href),
    counts: ["img", ".arithmatex", "pre.diagram", "input[type=range]"].map(kind => document.querySelectorAll(kind).length),
  };
}"""


class Visit:
    """One page: what went wrong on it, what it links to, and which places it has."""

    def __init__(self, name: str, base: str) -> None:
        self.name, self.base, self.wrong = name, base, []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.counts = [0, 0, 0, 0]

    def listen(self, page: Page) -> None:
        """Note what the browser complains about, and stop requests that leave the site."""
        page.on("console", lambda said: said.type == "error" and self.wrong.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        page.on("response", lambda got: got.status >= 400 and self.wrong.append(f"{got.status}: {got.url}"))
        page.route(lambda url: not url.startswith((self.base, "data:", "blob:")), self._stop)

    def _stop(self, route: Route) -> None:
        self.wrong.append(f"request to another host: {route.request.url}")
        route.abort()

    def look(self, page: Page, screenshot: Path | None) -> None:
        """Open the page, wait until formulas and diagrams are drawn, and look."""
        self.listen(page)
        page.goto(self.base + self.name, wait_until="load")
        page.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=60_000)
        if screenshot:
            screenshot.parent.mkdir(parents=True, exist_ok=True)
            page.wait_for_timeout(300)  # the theme fades its tabs in
            page.screenshot(path=screenshot, full_page=True)
        seen = page.evaluate(LOOK)
        self.wrong += seen["wrong"]
        self.links, self.ids, self.counts = seen["links"], set(seen["ids"]), seen["counts"]


def visit(browser: Browser, base: str, names: list[str], arguments: argparse.Namespace) -> list[Visit]:
    """Every page in turn, each in a tab of its own of one window, which remembers the site's scripts."""
    scheme = "dark" if arguments.dark else "light"
    window = {"width": arguments.width, "height": 900}
    context = browser.new_context(viewport=window, color_scheme=scheme)
    visits = []
    for name in names:
        page = context.new_page()
        one = Visit(name, base)
        picture = f"{name.strip('/').replace('/', '.') or 'index'}-{scheme}-{arguments.width}.png"
        try:
            one.look(page, arguments.screenshots and arguments.screenshots / picture)
        except Error as error:  # a page that never gets ready is one more thing that is wrong with it
            one.wrong.append(str(error).splitlines()[0])
        page.close()
        report(one.name, one.wrong)
        visits.append(one)
    return visits


def report(name: str, wrong: list[str]) -> None:
    """What is wrong with a page, a line each."""
    for line in dict.fromkeys(wrong):
        print(f"/{name}: {line}", flush=True)


def dead_links(visits: list[Visit], base: str) -> None:
    """Links to pages of the site that are not there, or to places that those pages do not have."""
    places = {base + one.name: one.ids for one in visits}
    for one in visits:
        dead = []
        for link in dict.fromkeys(one.links):
            address, fragment = urldefrag(link)
            if address in places and fragment and not fragment.startswith("__") and fragment not in places[address]:
                dead.append(f"a link to a place that is not there: {link.removeprefix(base)}")
            elif (
                address.startswith(base) and address not in places and not (SITE / urlsplit(address).path[1:]).exists()
            ):
                dead.append(f"a link to what is not there: {link.removeprefix(base)}")
        report(one.name, dead)
        one.wrong += dead


class Quiet(SimpleHTTPRequestHandler):
    """A server that says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> int:
    """Serve the site on this machine, look at it, and report."""
    parser = argparse.ArgumentParser(description="Open every page of the built site in headless Chromium.")
    parser.add_argument("--only", default="", help="pages whose path begins so")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--dark", action="store_true", help="the dark colours")
    parser.add_argument("--screenshots", type=Path, help="a folder for a picture of each page")
    arguments = parser.parse_args()
    pages = sorted(path.relative_to(SITE).as_posix().removesuffix("index.html") for path in SITE.rglob("*.html"))
    names = [name for name in pages if name.startswith(arguments.only)]
    if not names:
        sys.exit(
            f"No page of .site/html begins with {arguments.only!r}: run mkdocs build --strict -f docs/mkdocs.yml first."
        )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--hide-scrollbars"]  # no sandbox: what is opened is our own, and root has none
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        visits = visit(browser, base, names, arguments)
        browser.close()
    server.shutdown()
    dead_links(visits, base)
    totals = [sum(column) for column in zip(*(one.counts for one in visits), strict=True)]
    print("{} pages, {} pictures, {} formulas, {} diagrams, {} sliders".format(len(visits), *totals))
    return int(any(one.wrong for one in visits))


if __name__ == "__main__":
    sys.exit(main())
