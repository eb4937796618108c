"""What samplers draw where windows look back: a stack of three observations against a plain list of episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.tape import windows
from qdojo.tape.ring import empty, write
from qdojo.tape.sampling import UNIFORM, Exponents, Sampler, prioritized, uniform_starts
from qdojo.types import Step

pytestmark = pytest.mark.usefixtures("strict_promotion")

FRAMES, CAPACITY, CYCLE = 3, 12, 2
LENGTHS = [3, 1, 5, 2, 6, 4, 1, 7]
EXPONENTS = Exponents(jnp.float32(0.5), jnp.float32(1.0))


def shown() -> tuple[list[int], list[bool]]:
    """Observation 100 e + i in step i of episode e, and which rows are `last`."""
    rows = [(100 * e + i, i == length) for e, length in enumerate(LENGTHS) for i in range(length + 1)]
    return [number for number, _ in rows], [last for _, last in rows]


def block(numbers: list[int], last: list[bool]) -> Step:
    observation = jnp.array(numbers, jnp.float32).reshape(-1, 1, 1)
    flags = jnp.array(last).reshape(-1, 1, 1)
    return Step(observation, observation.astype(jnp.int32), observation, flags & False, flags)


def stacked(number: int) -> list[int]:
    """By hand: the steps up to this one, and the episode's first in place of those before it."""
    episode, step = divmod(number, 100)
    return [100 * episode + max(step - back, 0) for back in reversed(range(FRAMES))]


@pytest.mark.parametrize("sampler", [UNIFORM, prioritized(CAPACITY, 1, CYCLE)], ids=["uniform", "prioritized"])
def test_no_example_shows_another_episode_or_what_was_overwritten(sampler: Sampler) -> None:
    """At every size of the tape and three times round it; what can be drawn is drawn."""
    window = windows.transitions(1, FRAMES)
    kept, tape = sampler.init(), empty(CAPACITY, 1, 1, jax.ShapeDtypeStruct((), jnp.float32))
    sample, read, put = (
        jax.jit(sampler.sample, static_argnums=2),
        jax.jit(windows.read, static_argnums=0),
        jax.jit(write),
    )
    update, (numbers, last) = jax.jit(sampler.update), shown()
    for i in range(0, len(numbers) - 1, CYCLE):
        tape = put(tape, block(numbers[i : i + CYCLE], last[i : i + CYCLE]))
        written = i + CYCLE
        if written < window.rows:
            continue
        reader = tape._replace(member=jnp.int32(0))
        noise = jax.random.bits(jax.random.key(i), (200,), jnp.uint32)
        kept, drawn = sample(kept, reader, window, noise, EXPONENTS)
        found = jax.tree.map(np.asarray, read(window, reader, drawn.age, drawn.env, jnp.float32(0.5)))
        at = written - 1 - np.asarray(drawn.age)
        oldest = max(0, written - CAPACITY)
        can = {row for row in range(oldest + FRAMES - 1, written - 1) if sampler is UNIFORM or not last[row]}
        assert set(at.tolist()) == can or (not can and not found.weight.any())
        for row, seen, after, weight in zip(at, found.obs_tm1, found.obs_t, found.weight, strict=True):
            assert weight == (not last[row])
            if weight:
                assert seen.tolist() == stacked(numbers[row])
                assert after.tolist() == stacked(numbers[row + 1])
        kept = update(kept, reader, drawn, jnp.abs(jnp.sin(drawn.age.astype(jnp.float32))), EXPONENTS)


def test_starts_have_what_the_window_needs_around_them() -> None:
    tape = empty(16, 1, 2, jax.ShapeDtypeStruct((), jnp.float32))._replace(written=jnp.int32(40), member=jnp.int32(0))
    noise = jax.random.bits(jax.random.key(0), (1_000,), jnp.uint32)
    age, _ = uniform_starts(tape, noise, after=4, before=3)
    assert set(np.asarray(age).tolist()) == set(range(4, 13))
    of_all = [windows.transitions(2), windows.transitions(1, FRAMES), windows.sequences(1, 2, 1)]
    assert [window.rows for window in of_all] == [2, 4, 4]
