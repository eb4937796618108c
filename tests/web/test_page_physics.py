"""The page's environments in a real browser against qdojo's: each step from the same state, and whole episodes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from web.made import data_of

from qdojo.envs.native import NATIVE
from qdojo.export.html import page

STEPS = 500

WALK = """([start, actions]) => {
  const alone = [], together = [];
  let state = Float32Array.from(start[0]), over = false;
  actions.forEach((action, i) => {
    const next = environment.step(Float32Array.from(start[i]), action);
    alone.push([...next.state, next.reward, next.terminated ? 1 : 0]);
    state = environment.step(state, action).state;
    together.push([...state]);
  });
  return [alone, together, start.map((one) => [...environment.observe(Float32Array.from(one))])];
}"""


@pytest.mark.parametrize("name", NATIVE)
def test_the_physics_are_ours(name: str, opened: Any) -> None:
    """Episodes of random actions, restarted where they end; the page takes the same steps from the same states."""
    env = NATIVE[name]()
    rng = np.random.default_rng(0)
    words = jnp.asarray(rng.integers(2**32, size=(STEPS, env.noise_words), dtype=np.uint32))
    # Each action lasts a while, so that the whole range of states is reached.
    actions = np.repeat(rng.integers(env.num_actions, size=STEPS // 5), 5)

    def walk(state: Any, at: Any) -> Any:
        action, noise = at
        after, moved = env.step(state, action, noise)
        fresh, _ = env.reset(noise)
        over = moved.terminated | moved.truncated
        following = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, after)
        return following, (state.body, after.body, moved)

    first, _ = env.reset(words[0])
    _, (before, after, moved) = jax.jit(lambda: jax.lax.scan(walk, first, (jnp.asarray(actions), words)))()
    asked = [np.asarray(before).tolist(), actions.tolist()]
    alone, _, observed = opened(page(data_of(environment=name))).evaluate(WALK, asked)
    alone = np.array(alone)
    np.testing.assert_allclose(alone[:, :-2], after, rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(alone[:, -2], moved.reward)
    np.testing.assert_array_equal(alone[:, -1], moved.terminated)
    # What is seen before a step is what the step before it showed, unless an episode began there.
    went_on = ~np.asarray(moved.terminated | moved.truncated)[:-1]
    np.testing.assert_allclose(np.array(observed)[1:][went_on], moved.observation[:-1][went_on], rtol=1e-4, atol=2e-6)


def test_an_episode_of_500_steps_is_the_same(opened: Any) -> None:
    """MountainCar, which forgets small differences: 500 steps in a row without a correction."""
    env = NATIVE["MountainCar-v0"]()
    actions = np.repeat(np.random.default_rng(1).integers(3, size=STEPS // 5), 5)
    first, _ = env.reset(jnp.zeros(1, jnp.uint32))
    noise = jnp.zeros(1, jnp.uint32)

    def walk(state: Any, action: Any) -> Any:
        after, _ = env.step(state, action, noise)
        return after, after.body

    _, bodies = jax.jit(lambda: jax.lax.scan(walk, first, jnp.asarray(actions)))()
    asked = [[np.asarray(first.body).tolist()] * STEPS, actions.tolist()]
    _, together, _ = opened(page(data_of(environment="MountainCar-v0"))).evaluate(WALK, asked)
    np.testing.assert_allclose(together, bodies, atol=1e-4)
