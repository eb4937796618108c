"""A browser for the tests of the agent's page, and pages that report every error."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("QDOJO_CHROMIUM") or shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once for a file of tests: a running event loop must not outlive the file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[test]'")
    if CHROMIUM is None:
        pytest.skip("needs chromium on PATH: apt-get install chromium fonts-noto-cjk")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """`opened(content, **context)`: a page from a file; a message on its console or a request fails the test."""
    contexts, complaints = [], []

    def open_page(content: bytes, **context: Any) -> Any:
        path: Path = tmp_path_factory.mktemp("page") / "agent.html"
        path.write_bytes(content)
        contexts.append(browser.new_context(**{"locale": "en-US", "reduced_motion": "reduce"} | context))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_timeout(50)
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
