"""Every part of the page is clicked in a real browser: nothing complains, and each control does what it says."""

import re
from typing import Any

import numpy as np
import pytest
from web.made import data_of, film_of, snapshots_of

from qdojo.export.html import FOLDER, page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--<script>{{data}}"


def state(tab: Any, what: str = "player.steps") -> Any:
    return tab.evaluate(what)


@pytest.fixture(scope="module")
def live(opened: Any) -> Any:
    """A page with an agent and two snapshots; its animations begin paused, as motion is reduced."""
    return opened(page(data_of(snapshots=snapshots_of())))


@pytest.fixture(autouse=True)
def _as_at_first(request: pytest.FixtureRequest) -> None:
    if "live" in request.fixturenames:
        tab = request.getfixturevalue("live")
        tab.locator("[data-language=en]").click()
        tab.locator("input[value=agent]").check()
        tab.locator("#restart").click()


def test_it_waits_where_motion_is_reduced(live: Any) -> None:
    before = state(live)
    live.wait_for_timeout(100)
    assert state(live) == before == 0
    assert live.locator("#play").inner_text() == "Play"


def test_it_plays_pauses_and_steps(live: Any) -> None:
    live.locator("#play").click()
    live.wait_for_timeout(300)
    live.locator("#play").click()
    played = state(live)
    assert played > 0
    live.locator("#step").click()
    assert state(live) == played + 1
    live.wait_for_timeout(50)
    assert live.locator("#status").inner_text().startswith(f"Step {played + 1}")


def test_an_episode_is_its_seed(live: Any) -> None:
    starts = []
    for seed in (7, 8, 7):
        live.locator("#seed").fill(str(seed))
        live.locator("#restart").click()
        starts.append(state(live, "[...player.state]"))
    assert starts[0] == starts[2] != starts[1]


@pytest.mark.parametrize("way", ["button", "key", "drag"])
def test_a_push_disturbs_the_state(way: str, live: Any) -> None:
    before = state(live, "[...player.state]")
    if way == "button":
        live.locator("#act-1").click()
    elif way == "key":
        live.locator("#stage").focus()
        live.keyboard.press("ArrowRight")
    else:
        live.locator("#play").click()
        box = live.locator("#stage").bounding_box()
        live.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
        live.mouse.down()
        live.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 3, steps=3)
        live.wait_for_timeout(80)
        live.mouse.up()
        live.locator("#play").click()
        assert state(live, "player.history.some(({ pushed }) => pushed)")
        return
    after = state(live, "[...player.state]")
    assert after[3] - before[3] == pytest.approx(0.4, abs=1e-6)


def test_one_takes_over_the_action(live: Any) -> None:
    live.locator("input[value=you]").check()
    for button, action in (("#act-0", 0), ("#act-1", 1)):
        live.locator(button).click()
        live.locator("#step").click()
        assert state(live, "player.history.at(-1).action") == action


def test_the_bars_are_the_q_values(live: Any) -> None:
    live.wait_for_timeout(50)
    q, choice = state(live, "[[...player.thought.q], player.choice]")
    texts = live.locator("#bars .value").all_inner_texts()
    assert [float(text.replace("−", "-")) for text in texts] == pytest.approx(q, rel=0.01, abs=0.001)
    assert "chosen" in live.locator("#bars li").nth(choice).get_attribute("class")
    margin = float(re.search(r"[\d.]+", live.locator("#margin").inner_text())[0])
    assert margin == pytest.approx(abs(q[0] - q[1]), rel=0.01, abs=0.001)


def test_the_time_line_switches_the_agent(live: Any) -> None:
    delivered = state(live, "[...player.thought.q]")
    live.locator("#timeline").focus()
    live.keyboard.press("Home")
    live.wait_for_timeout(50)
    assert live.locator("#snapshot").inner_text() == "Untrained agent"
    assert state(live, "[...player.thought.q]") != delivered
    live.locator("#curve").click(position={"x": 600, "y": 60})
    live.keyboard.press("End")
    live.locator("#timeline").focus()
    live.keyboard.press("End")
    live.wait_for_timeout(50)
    assert state(live, "[...player.thought.q]") == delivered
    assert live.locator("#snapshot").inner_text() == "Delivered agent"


def test_rounded_weights_are_close(live: Any) -> None:
    """The snapshot at step 50 is the delivered agent, rounded."""
    q, near = state(live, "[delivered, snapshots[1].network()].map((one) => [...think(one, player.state, {}).q])")
    assert near == pytest.approx(q, rel=0.05, abs=0.01)


def test_the_landscape_follows_its_axes(live: Any) -> None:
    live.locator("#across").select_option("0")
    live.locator("#up").select_option("1")
    live.wait_for_timeout(400)
    center, corner = state(live, "[landscape.horizontal, landscape.vertical]"), state(live, "[...landscape.done.value]")
    assert center == [0, 1]
    size = state(live, "landscape.size")
    first = [-2.4 + 0.5 / size * 4.8, 3 - 0.5 / size * 6]
    there = state(
        live,
        f"Math.max(...think(delivered, Float32Array.of({first[0]}, {first[1]}, ...player.state.slice(2)), {{}}).q)",
    )
    assert corner[0] == pytest.approx(there, rel=1e-4)


def test_every_text_has_two_languages(live: Any) -> None:
    live.locator("[data-language=ko]").click()
    assert live.locator("html").get_attribute("lang") == "ko"
    assert live.locator("#restart").inner_text() == "다시 시작"
    english, korean = state(live, "[STRINGS.en, STRINGS.ko]")
    assert english.keys() == korean.keys()
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", korean[key])), key
    named = set(re.findall(r'data-text="(\w+)"', (FOLDER / "page.html").read_text()))
    assert named <= english.keys()


def test_the_keyboard_alone_reaches_every_control(live: Any) -> None:
    reached = set()
    live.evaluate("document.activeElement.blur()")
    for _ in range(30):
        live.keyboard.press("Tab")
        reached.add(live.evaluate("document.activeElement.id || document.activeElement.name || ''"))
    wanted = {
        "stage",
        "play",
        "step",
        "restart",
        "speed",
        "seed",
        "limit",
        "act-0",
        "act-1",
        "across",
        "up",
        "timeline",
    }
    assert wanted | {"measure", "who"} <= reached


def test_a_hostile_name_stays_text(opened: Any) -> None:
    tab = opened(page(data_of(run=HOSTILE, env=HOSTILE, command=HOSTILE, settings=[[HOSTILE, HOSTILE]])))
    assert tab.locator("#run").inner_text() == HOSTILE
    assert tab.locator("#command").inner_text() == HOSTILE
    assert tab.locator("img").count() == 0
    assert HOSTILE in tab.title()


def test_only_its_own_scripts_run(opened: Any) -> None:
    """The policy names each script by its hash: one that was changed does not run."""
    content = page(data_of())
    policy = re.search(rb'Content-Security-Policy" content="([^"]*)"', content)[1].decode()
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    changed = content.replace(b"let playing = !calm.matches", b"window.broken = 1; let playing = !calm.matches")
    assert changed != content
    assert not re.search(rb"""\son\w+=["']|javascript:|\bstyle=|eval\(|new Function""", content)


def test_a_film_is_scrubbed(opened: Any) -> None:
    tab = opened(page(data_of(environment=None, network=None, weights="", film=film_of())))
    assert tab.locator("#episode option").all_inner_texts() == ["best of 20: return 3", "worst of 20: return 1"]
    tab.locator("#scrub").focus()
    for press, at in (("End", 2), ("ArrowLeft", 1)):
        tab.keyboard.press(press)
        tab.wait_for_timeout(50)
        assert state(tab, "player.at") == at
        assert tab.locator("#bars .value").all_inner_texts() == [f"{at}.00", f"{10 + at}.00"]
    middle = "$('stage').width / 2, $('stage').height / 2, 1, 1"
    shown = state(tab, f"[...$('stage').getContext('2d').getImageData({middle}).data.slice(0, 3)]")
    assert shown == pytest.approx([0, 255, 0], abs=12)
    tab.locator("#episode").select_option("1")
    assert state(tab, "player.at") == 0
    assert not tab.locator("#landscape-card").is_visible()
    assert not tab.locator("#steering").is_visible()


CONTRASTS = [
    ("ink", "page"),
    ("ink", "card"),
    ("quiet", "page"),
    ("quiet", "card"),
    ("quiet", "stage"),
    ("on-strong", "strong"),
]
SHAPES = [
    *((f"action-{i}", ground) for i in range(8) for ground in ("card", "stage")),
    ("limit", "stage"),
    ("accent", "stage"),
    ("edge", "card"),
    ("focus", "card"),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_pass_wcag_aa(theme: str) -> None:
    """Text has a contrast of 4.5, graphics and controls of 3 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    light, dark = (FOLDER / "page.css").read_text().split("@media (prefers-color-scheme: dark)")[:2]
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if theme == "light" else dark.split("\n  }\n")[0]))

    def luminance(name: str) -> float:
        channels = np.array([int(colors[name][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    poor = [pair for pair in CONTRASTS if contrast(*pair) < 4.5] + [pair for pair in SHAPES if contrast(*pair) < 3]
    assert poor == []
