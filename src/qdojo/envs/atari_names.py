"""Names of Atari games: legacy ids and human-normalised scores. `atari.py` has the games themselves.

Does not import the emulator.
"""

import re
import tomllib
from functools import cache
from importlib import resources

_OLD = re.compile(r"(?P<game>[A-Z]\w*?)(?P<ram>-ram)?(?P<kind>NoFrameskip|Deterministic)?-v(?P<version>[04])")
_BARE = re.compile(r"(?:ALE/)?(?P<game>\w+)")
_WITHOUT_SCORES = ("Adventure", "AirRaid", "Carnival", "ElevatorAction", "JourneyEscape", "Pooyan")
"""Games that have legacy ids but no published human scores."""


@cache
def scores() -> dict[str, tuple[float, float]]:
    """Return the scores of random play and of a human, keyed by the game's name in `ALE/<game>-v5`."""
    text = resources.files("qdojo.envs").joinpath("atari_scores.toml").read_text(encoding="utf-8")
    return {game: (random, human) for game, (random, human) in tomllib.loads(text).items()}


def human_normalized(env: str, mean: float) -> float | None:
    """Return the human-normalised score (0: random play, 1: human); None if the environment has no human score."""
    game = re.fullmatch(r"ALE/(\w+)-v5", env)
    if game is None or game[1] not in scores():
        return None
    random, human = scores()[game[1]]
    return (mean - random) / (human - random)


def human_clause(env: str, mean: float) -> str:
    """Return text such as `, human-normalised 0.53` for an Atari score, and an empty string for any other."""
    normalized = human_normalized(env, mean)
    return "" if normalized is None else f", human-normalised {normalized:.2f}"


def advice(env_id: str) -> str | None:
    """Return a sentence that names the current equivalent of a legacy id or of a game's bare name; None for others."""
    known = {game.lower(): game for game in (*scores(), *_WITHOUT_SCORES)}
    bare = _BARE.fullmatch(env_id)
    if bare is not None and bare["game"].lower() in known:
        return f"There is no environment called {env_id!r}; did you mean ALE/{known[bare['game'].lower()]}-v5?"
    old = _OLD.fullmatch(env_id)
    if old is None or old["game"].lower() not in known:
        return None
    today = f"ALE/{known[old['game'].lower()]}-v5"
    sticky = 0.25 if old["version"] == "0" else 0
    if old["ram"]:
        return (
            f"{env_id} observes the RAM of an Atari game, but qdojo plays {today} from the screen; to learn from RAM, "
            f"pass gymnasium.make({today!r}, obs_type='ram', repeat_action_probability={sticky:g}) as env=."
        )
    skip = {"NoFrameskip": 1, "Deterministic": 3 if old["game"] == "SpaceInvaders" else 4}.get(old["kind"] or "", 4)
    same = f"use {today} with sticky_actions={sticky:g} and frame_skip={skip}"
    if old["kind"] == "NoFrameskip":
        return f"{env_id} is a legacy Gym id; {same}, or atari_protocol='dqn2015' for the usual DQN wrappers."
    fixed = "" if old["kind"] else " (the legacy id held each action for a random 2 to 4 frames)"
    return f"{env_id} is a legacy Gym id; {same}{fixed}."
