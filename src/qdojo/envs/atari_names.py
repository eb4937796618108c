"""What the ids of Atari games mean: those of old, and the scores of humans. Not for playing them: see `atari.py`.

Imports no emulator.
"""

import re
import tomllib
from functools import cache
from importlib import resources

_OLD = re.compile(r"(?P<game>[A-Z]\w*?)(?P<ram>-ram)?(?P<kind>NoFrameskip|Deterministic)?-v(?P<version>[04])")
_BARE = re.compile(r"(?:ALE/)?(?P<game>\w+)")
_WITHOUT_SCORES = ("Adventure", "AirRaid", "Carnival", "ElevatorAction", "JourneyEscape", "Pooyan")
"""Games with ids of old that no table has figures of."""


@cache
def scores() -> dict[str, tuple[float, float]]:
    """Scores of random play and of a human, by game as in `ALE/<game>-v5`."""
    text = resources.files("qdojo.envs").joinpath("atari_scores.toml").read_text(encoding="utf-8")
    return {game: (random, human) for game, (random, human) in tomllib.loads(text).items()}


def human_normalized(env: str, mean: float) -> float | None:
    """Return a score on the scale where 0 is random play and 1 a human; None for other environments."""
    game = re.fullmatch(r"ALE/(\w+)-v5", env)
    if game is None or game[1] not in scores():
        return None
    random, human = scores()[game[1]]
    return (mean - random) / (human - random)


def human_clause(env: str, mean: float) -> str:
    """Return `, human-normalised 0.53` for a score of an Atari game, and nothing for any other."""
    normalized = human_normalized(env, mean)
    return "" if normalized is None else f", human-normalised {normalized:.2f}"


def advice(env_id: str) -> str | None:
    """Return a sentence on an id of old times, or the bare name of a game, that says what means the same today."""
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
            f"{env_id} shows the memory of an Atari game, but {today} is played from the screen here; for its memory "
            f"pass gymnasium.make({today!r}, obs_type='ram', repeat_action_probability={sticky:g}) as env=."
        )
    skip = {"NoFrameskip": 1, "Deterministic": 3 if old["game"] == "SpaceInvaders" else 4}.get(old["kind"] or "", 4)
    same = f"use {today} with sticky_actions={sticky:g} and frame_skip={skip}"
    if old["kind"] == "NoFrameskip":
        return f"{env_id} is an id of old Gym; {same}, or, for DQN with its usual wrappers, atari_protocol='dqn2015'."
    fixed = "" if old["kind"] else ", where the old one held each action for 2 to 4 frames at random"
    return f"{env_id} is an id of old Gym; {same}{fixed}."
