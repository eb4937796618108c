"""The page's games on a board of cells: in a real browser against ours, step for step, and how they are played."""

import base64
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probes.minatar_records import IDS, recorded, words
from web.kinds import described_player
from web.made import data_of

from qdojo.agent_page import rules
from qdojo.envs.native import NATIVE, SIZED, shipped
from qdojo.envs.native.minatar import MINATAR
from qdojo.export.html import packed, page, rounded, scripts_of

SUITE = [f"qdojo/{name}-v0" for name in ("Catch", "DeepSea12", "MemoryChain9", "MemoryChain100")]
STEPS = 500
RECORDED = 2_600
"""Steps of a record: an episode of Freeway has 2,501."""

PLAY = """([starts, actions, words, unused, shown, whole]) => {
  const expected = whole ? bytesOf(shown) : weightsOf(shown), size = expected.length / actions.length;
  const rewards = [], ends = [];
  let state = null, differs = null;
  actions.forEach((action, i) => {
    let at = starts[i] ? unused : 0, moved = { reward: 0, terminated: false };
    const random = () => words[i][at++] / 2 ** 32;
    if (!starts[i]) moved = environment.step(state, action, random);
    state = starts[i] ? environment.reset(random) : moved.state;
    const seen = environment.observe(state);
    if (seen.length !== size || seen.some((value, k) => Math.abs(value - expected[i * size + k]) > 1e-7)) differs ??= i;
    rewards.push(moved.reward);
    ends.push(Boolean(moved.terminated));
  });
  return [differs, rewards, ends];
}"""


def in_the_page(tab: Any, starts: Any, actions: Any, noise: Any, shown: Any, unused: int = 0) -> tuple[Any, Any]:
    """Rewards and ends that the page gives for the same random words; its observations equal those `shown`."""
    whole = shown.dtype == np.uint8
    told = base64.b64encode(shown.tobytes()).decode() if whole else packed(shown)
    asked = [starts.tolist(), actions.tolist(), noise.tolist(), unused, told, whole]
    differs, rewards, ends = tab.evaluate(PLAY, asked)
    assert differs is None, f"step {differs}: another observation"
    return rewards, ends


def check_legible(tab: Any) -> None:
    """Each channel has a shape of its own, so that the board can be read without its colours; all is named in both
    languages."""
    channels = tab.evaluate("environment.channels")
    shapes = [channel["shape"] for channel in channels]
    assert len(set(shapes)) == len(shapes)
    assert set(shapes) <= set(tab.evaluate("Object.keys(SHAPES)"))
    for texts in tab.evaluate("[STRINGS.en, STRINGS.ko]"):
        assert {channel["name"] for channel in channels} | set(tab.evaluate("environment.actions")) <= texts.keys()


@pytest.mark.parametrize("env_id", SUITE)
def test_the_games_of_the_suite_are_ours(env_id: str, opened: Any) -> None:
    env = shipped(env_id)
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.integers(2**32, size=(STEPS, env.noise_words), dtype=np.uint32))
    actions = jnp.asarray(rng.integers(env.num_actions, size=STEPS), jnp.int32)

    def walk(carried: Any, at: Any) -> Any:
        (state, over), (action, words) = carried, at
        fresh, first = env.reset(words)
        after, moved = env.step(state, action, words)
        state, shown = jax.tree.map(lambda a, b: jnp.where(over, a, b), (fresh, first), (after, moved.observation))
        ends = moved.terminated & ~over
        return (state, ends), (over, shown, jnp.where(over, 0.0, moved.reward), ends)

    begin = (env.reset(noise[0])[0], jnp.asarray(True))
    starts, shown, reward, ends = jax.jit(lambda *given: jax.lax.scan(walk, begin, given)[1])(actions, noise)
    tab = opened(page(data_of(environment=env_id, rules=rules(env_id))))
    rewards, over = in_the_page(tab, np.asarray(starts), actions, noise, np.asarray(shown))
    np.testing.assert_array_equal(np.float32(rewards), reward)
    np.testing.assert_array_equal(over, ends)
    check_legible(tab)


@pytest.mark.parametrize("game", IDS)
def test_the_games_of_minatar_are_ours(game: str, opened: Any) -> None:
    """Records that our games equal too, which reach the late stages of each game."""
    tab = opened(page(data_of(environment=f"MinAtar/{IDS[game]}-v0")))
    for play in ("random", "good"):
        rows, shown = recorded(f"{game}_{play}")
        rows = {name: column[..., :RECORDED] if name == "draws" else column[:RECORDED] for name, column in rows.items()}
        # A game begins with the words after the one for a repeated action.
        asked = rows["starts"], rows["actions"], words(game, rows["draws"]), shown[:RECORDED], 1
        rewards, ends = in_the_page(tab, *asked)
        counted = ~rows["starts"]
        np.testing.assert_array_equal(np.array(rewards)[counted], rows["rewards"][counted])
        np.testing.assert_array_equal(np.array(ends)[counted], rows["terminated"][counted])
    check_legible(tab)


def test_all_that_the_device_loop_has_is_played() -> None:
    for env_id in (*NATIVE, *MINATAR, "qdojo/Catch-v0", *(f"qdojo/{name}12-v0" for name in SIZED)):
        assert shipped(env_id) is not None or env_id in NATIVE
        assert scripts_of(env_id), env_id
    for env_id in ("qdojo/Grid-v0", "MinAtar/Breakout-v2", "CartPole-v0", "ALE/Pong-v5", None):
        assert not scripts_of(env_id)


BREAKOUT = "MinAtar/Breakout-v1"


@cache
def breakout() -> dict[str, Any]:
    """Data of a page with an untrained agent and a snapshot of another."""
    board, actions = spaces.Box(0, 1, (10, 10, 4), np.uint8), spaces.Discrete(3)
    settings = {"torso": "minatar", "hidden": (16,)}
    (network, weights), (_, earlier) = (described_player(board, actions, settings, key=key) for key in (1, 2))
    agent = {"network": network, "weights": packed(weights), "weight_count": weights.size}
    return data_of(env=BREAKOUT, environment=BREAKOUT, snapshots=[{"step": 0, "weights": rounded(earlier)}], **agent)


@pytest.fixture(scope="module")
def live(opened: Any) -> Any:
    return opened(page(breakout()))


def state(tab: Any, what: str = "player.steps") -> Any:
    return tab.evaluate(what)


def test_it_plays_pauses_steps_and_restarts(live: Any) -> None:
    live.locator("#play").click()
    live.wait_for_timeout(400)
    live.locator("#play").click()
    assert state(live) > 0
    live.locator("#restart").click()
    assert state(live) == 0
    live.locator("#step").click()
    assert state(live) == 1
    assert not live.locator("#landscape-card").is_visible()
    assert not live.locator("#limit").is_visible()
    assert not live.locator("#sees").is_visible()
    assert live.locator("#hidden").is_visible()


@pytest.mark.parametrize("who", ["agent", "you"])
def test_one_takes_over_the_action(who: str, live: Any) -> None:
    live.locator(f"input[value={who}]").check()
    live.locator("#restart").click()
    live.locator("#stage").focus()
    taken = "[player.history.at(-1).action, player.history.at(-1).pushed]"
    for key, action in (("ArrowRight", 2), ("ArrowLeft", 1)):
        live.locator("#restart").click()
        live.keyboard.down(key)
        for _ in range(2):
            live.evaluate("player.advance()")
            assert state(live, taken) == [action, who == "agent"]
        live.keyboard.up(key)
        live.evaluate("player.advance(), player.advance()")
        expected = state(live, "greedy(player.history.at(-1).q, 3)[0]") if who == "agent" else 0
        assert state(live, taken) == [expected, False]
    live.locator("#act-2").click()
    live.locator("#step").click()
    assert state(live, taken) == [2, who == "agent"]
    live.locator("input[value=agent]").check()


def test_a_paddle_that_is_steered_moves(live: Any) -> None:
    """But for the one step in ten that repeats the action before."""
    live.locator("#restart").click()
    live.evaluate("player.press(2), player.advance(), player.advance(), player.advance(), player.release()")
    assert state(live, "player.state.paddle") >= 6


def test_the_legend_names_each_channel_in_two_languages(live: Any) -> None:
    assert live.locator("#legend li").all_inner_texts() == ["paddle", "ball", "trail", "brick"]
    live.locator("[data-language=ko]").click()
    assert live.locator("#legend li").all_inner_texts() == ["받침", "공", "지나온 자리", "벽돌"]
    assert live.locator("#act-1").inner_text() == "◀ 왼쪽"
    live.locator("[data-language=en]").click()


def test_the_time_line_switches_the_agent(live: Any) -> None:
    delivered = state(live, "[...player.thought.q]")
    live.locator("#timeline").focus()
    live.keyboard.press("Home")
    assert live.locator("#snapshot").inner_text() == "Untrained agent"
    assert state(live, "[...player.thought.q]") != delivered
    live.keyboard.press("End")
    assert state(live, "[...player.thought.q]") == delivered


def test_the_page_measures_its_own_score(live: Any) -> None:
    live.locator("#measure").click()
    live.locator("#measure:enabled").wait_for()
    assert re.match(r"[\d.]+ \[[\d.]+, [\d.]+\], 100 episodes", live.locator("#measured").inner_text())
