"""What a resume may change in the settings of a run. `restoring.py` compares all others with the checkpoint."""

from typing import NamedTuple

from qdojo.config import Config
from qdojo.errors import UsageError
from qdojo.processor import check_shards
from qdojo.watch import has_screen


class Changed(NamedTuple):
    """The settings of a run that resumes."""

    config: Config
    """What it resumes with."""
    rewritten: Config | None
    """What its `config.toml` holds from now on; None if that does not change."""


def changed(stored: Config, steps: int | None, shards: int | None) -> Changed:
    """The `stored` settings of a run with another budget or number of shards, if given.

    Raises UsageError if either is below 1, or if there are fewer cores than new shards.
    """
    given = {name: value for name, value in (("steps", steps), ("shards", shards)) if value is not None}
    for name, value in given.items():
        if value < 1:
            raise UsageError(f"{name} is {value}, but it must be at least 1.")
    # Runs of earlier versions, and of one member, have no number of shards.
    before = stored.shards or 1
    if shards is not None and shards != before:
        check_shards(shards)
    now = {"shards": before} | given
    screen = {} if has_screen() else {"render": "none"}
    return Changed(stored.model_copy(update=now | screen), stored.model_copy(update=given) if given else None)
