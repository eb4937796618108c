"""Figures of the agent's page, measured in Chromium: `python -m benchmarks.agent_page [--parts sizes,errors,scores]`.

`sizes`: bytes of the page of some agents. `errors`: the largest error of the Q-values of each kind of network against
JAX, relative to the largest Q-value of an observation, on 1,000 observations. `scores`: the mean return of 100 episodes
that the page plays, beside that of `qdojo eval`, with 95 % bootstrap intervals.

The kinds of networks and the browser are those of the tests in `tests/web`.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qdojo
from qdojo.export.html import page

sys.path.append(str(Path(__file__).parent.parent / "tests"))

PARTS = ("sizes", "errors", "scores")
AGENTS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {},
    "Acrobot-v1": {},
    "MountainCar-v0": {},
    "MinAtar/Breakout-v1": {"steps": 100_000},
}
"""Agents whose page is measured and plays: environment and settings that differ from the defaults."""
SIZED: dict[str, dict[str, Any]] = {
    "CartPole-v1 rainbow": {"preset": "rainbow"},
    "CartPole-v1 r2d2": {"preset": "r2d2"},
    "FrozenLake-v1": {},
}
"""Further agents whose page is only measured, after a short training."""
SHORT_STEPS = 2_000


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """The Chromium of the tests."""
    from playwright.sync_api import sync_playwright
    from web.conftest import CHROMIUM, FLAGS

    with sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))


def opened(browser: Any, path: Path) -> Any:
    """A tab with the page, which does not play by itself."""
    tab = browser.new_context(locale="en-US", reduced_motion="reduce").new_page()
    tab.goto(path.resolve().as_uri())
    return tab


def told_size(name: str, path: Path) -> str:
    """The line of one page's size."""
    return f"size   {name:30} {path.stat().st_size:10,} bytes"


def errors(browser: Any, folder: Path) -> Iterator[str]:
    """The error of each kind of network."""
    from web.kinds import KINDS, computed, error
    from web.made import data_of

    path = folder / "any.html"
    path.write_bytes(page(data_of()))
    tab = opened(browser, path)
    for kind in KINDS:
        yield f"error  {kind:30} {error(*computed(kind, tab)):10.1e}"


def scores(browser: Any, path: Path, name: str) -> str:
    """What the page measures itself, and what it quotes from `evaluate`."""
    tab = opened(browser, path)
    tab.locator("#measure").click()
    tab.locator("#measure:enabled").wait_for(timeout=0)
    theirs, own = (tab.locator(place).inner_text() for place in ("#score", "#measured"))
    return f"score  {name:30} qdojo eval {theirs}; page {own}"


def main() -> None:
    """Measure the named parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure")
    parts = parser.parse_args().parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; --help lists all")
    with tempfile.TemporaryDirectory() as name, browser() as running:
        folder, asked = Path(name), {"sizes", "scores"} & set(parts)
        for env, settings in AGENTS.items() if asked else ():
            path = qdojo.train(env, root=folder, progress=False, **settings).page(folder / "agent.html")
            if "sizes" in parts:
                print(told_size(env, path), flush=True)
            if "scores" in parts:
                print(scores(running, path, env), flush=True)
        for told, settings in SIZED.items() if "sizes" in parts else ():
            run = qdojo.train(told.split()[0], root=folder, progress=False, steps=SHORT_STEPS, **settings)
            print(told_size(told, run.page(folder / "agent.html")), flush=True)
        for line in errors(running, folder) if "errors" in parts else ():
            print(line, flush=True)


if __name__ == "__main__":
    main()
