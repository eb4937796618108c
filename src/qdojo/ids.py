"""What the id of an environment says by itself, without Gymnasium."""

GIVEN = " (as it was given)"
"""Suffix of the name of an environment that was given as an object, so that the name is never mistaken for an id."""


def is_atari(env: str) -> bool:
    """Return whether `env` is the id of an Atari game; the name of a given environment object is not."""
    return env.startswith("ALE/") and not env.endswith(GIVEN)
