"""How soon a network sees Pong: it learns where the ball is and how it moves from the screen, supervised by the memory
of the game. Without the noise of reinforcement learning, networks and their inputs can be compared in minutes.

    python -m benchmarks.sight            # about five minutes on one core; needs '.[atari]'

Each row is one network. Each figure is the part of the variance, on later frames, that is not explained after so many
updates: 1 is blind, 0 sees everything.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, UInt8

from qdojo.envs.atari import AtariGame, AtariRules
from qdojo.networks.inputs import Design
from qdojo.networks.mlp import mlp

BALL_X, BALL_Y, PLAYER_Y = 49, 54, 51
"""Addresses in the memory of the game: Anand et al. (2019), appendix, table of the annotated variables of Pong."""
NAMES = ("ball above player", "ball beside player", "ball's speed, vertical", "ball's speed, horizontal")
FRAMES, STACK, BATCH = 24_000, 4, 16
TRAINED = 0.85
"""The part of the frames, the earlier ones, that the networks learn from."""
LEARNING_RATE = 2.5e-4
MARKS = (500, 1_000, 2_000, 4_000)
"""Updates after which the networks are tested."""
UP, DOWN = 2, 3
"""Pong's minimal actions RIGHT and LEFT, which move the player up and down."""


class Screens(NamedTuple):
    """Frames of play in order."""

    frames: UInt8[np.ndarray, "time side side"]
    told: Float[np.ndarray, "time 4"]
    """What the network has to tell: `NAMES`, each divided by about its largest value."""
    shown: Bool[np.ndarray, "time"]
    """Whether the ball is in play in this frame and moved on from the one before."""


def played(side: int, seed: int = 0) -> Screens:
    """Play Pong at random, and now and then towards the ball, so that the ball is everywhere."""
    generator, game = np.random.default_rng(seed), AtariGame(AtariRules("pong", resize=side))
    memory, frames = np.zeros((FRAMES, 3)), np.zeros((FRAMES, side, side), np.uint8)
    game.reset(seed=seed)
    action, follows = 0, False
    for t in range(FRAMES):
        ram = game.ale.getRAM()
        if generator.random() < 0.02:
            follows = bool(generator.random() < 0.6)
        if follows:
            action = UP if int(ram[BALL_Y]) + generator.integers(-12, 12) < int(ram[PLAYER_Y]) + 4 else DOWN
        elif generator.random() < 0.15:
            action = int(generator.integers(6))
        frames[t], _, over, *_ = game.step(action)
        memory[t] = game.ale.getRAM()[[BALL_X, BALL_Y, PLAYER_Y]]
        if over:
            game.reset()
    x, y, player = memory.T
    moved_x, moved_y = np.diff(x, prepend=x[:1]), np.diff(y, prepend=y[:1])
    told = [(y - player) / 32, (x - 130) / 50, np.clip(moved_y, -16, 16) / 8, np.clip(moved_x, -8, 8) / 4]
    shown = (x > 55) & (x < 200) & (y > 20) & (abs(moved_x) < 12) & (abs(moved_y) < 30)
    shown[:STACK] = False
    return Screens(frames, np.stack(told, axis=1).astype(np.float32), shown)


def unexplained(
    screens: Screens, *, torso: str, width: float, normalized: bool
) -> Iterator[tuple[int, Float[np.ndarray, "4"]]]:
    """Train one network; yields the updates so far and what is not explained."""
    side = screens.frames.shape[1]
    network = mlp(
        Design(
            **{"observation_shape": (side, side, STACK), "num_actions": len(NAMES), "hidden": (256,)},
            **{"layer_norm": True, "normalized": normalized, "scale": 255, "torso": torso, "torso_width": width},
        )
    )
    shown = np.flatnonzero(screens.shown)
    earlier, later = shown[shown < TRAINED * FRAMES], shown[shown >= TRAINED * FRAMES][:1_024]
    frames, told = jnp.asarray(screens.frames), jnp.asarray(screens.told)
    trainable, tested = jnp.asarray(earlier), jnp.asarray(later)
    adam = optax.adam(LEARNING_RATE)

    def stacks(t: Array) -> UInt8[Array, "batch side side stack"]:
        return jnp.moveaxis(frames[t[:, None] - jnp.arange(STACK)[::-1]], 1, -1)

    def error(learned: Any, rest: Any, t: Array) -> Float[Array, ""]:
        found = jax.vmap(network.apply, in_axes=(None, 0))(eqx.combine(learned, rest), stacks(t))
        return jnp.mean(jnp.square(found - told[t]))

    def update(carry: Any, key: Array) -> tuple[Any, None]:
        params, moments = carry
        t = trainable[jax.random.randint(key, (BATCH,), 0, len(earlier))]
        learned, rest = eqx.partition(params, eqx.is_inexact_array)
        step, moments = adam.update(jax.grad(error)(learned, rest, t), moments)
        params = eqx.combine(optax.apply_updates(learned, step), rest)
        return (network.observe(params, stacks(t)), moments), None

    @jax.jit
    def learn(carry: Any, keys: Array) -> Any:
        return jax.lax.scan(update, carry, keys)[0]

    @jax.jit
    def test(params: Any) -> Float[Array, "4"]:
        found = jax.lax.map(lambda t: network.apply(params, stacks(t[None])[0]), tested)
        return jnp.mean(jnp.square(found - told[tested]), axis=0) / jnp.var(told[tested], axis=0)

    params = jax.jit(network.init)(jax.random.key(0))
    carry = params, adam.init(eqx.filter(params, eqx.is_inexact_array))
    keys = jax.random.split(jax.random.key(1), (max(MARKS) // MARKS[0], MARKS[0]))
    for i, some in enumerate(keys, start=1):
        carry = learn(carry, some)
        if i * MARKS[0] in MARKS:
            yield i * MARKS[0], np.asarray(test(carry[0]))


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sight", description=__doc__.partition(":")[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[84, 42], help="sides of the images")
    parser.add_argument("--torsos", nargs="+", default=["der"], help="torsos to compare")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of their channels")
    chosen = parser.parse_args()
    print("not explained: " + ", ".join(NAMES))
    for side in chosen.sides:
        screens = played(side)
        for torso in chosen.torsos:
            for normalized in (False, True):
                how = "normalised" if normalized else "as they are"
                print(f"{torso}, images of {side} x {side}, {how}")
                for updates, parts in unexplained(screens, torso=torso, width=chosen.width, normalized=normalized):
                    told = " ".join(f"{part:6.3f}" for part in parts)
                    print(f"  {updates:6,} updates {told}", flush=True)


if __name__ == "__main__":
    main()
