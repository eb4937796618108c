"""Begins a new run from a checkpoint of another, with other settings. `trainer.py` continues it."""

import shutil
from pathlib import Path

from qdojo.build.training import Parts
from qdojo.config import Config
from qdojo.runs import checkpoint
from qdojo.runs.directory import RunDirectory, create
from qdojo.training.restoring import checkpoint_meta, save_delivered, saved, told_of_disk, with_settings_of
from qdojo.training.selection import delivered


def fork(source: checkpoint.Loaded, config: Config, parts: Parts, root: Path) -> RunDirectory:
    """A new run directory under `root` that continues from a checkpoint with other settings.

    It is complete when this returns, and removed if this fails. Raises UsageError if the settings require a state of
    another shape or another loop, or the disk is too full.
    """
    progress = with_settings_of(config, parts, source.arrays)
    best = delivered(progress.best, parts.loop.shards.cut(progress.state.agents.params, 0))
    meta = source.meta | checkpoint_meta(config)
    told_of_disk(config, parts.loop, root)
    run = create(root, config.env, config.preset, config.to_toml())
    try:
        save_delivered(run, best, meta, parts)
        arrays, ring = saved(progress, parts.loop)
        tape = checkpoint.append(run.checkpoints_path, ring, None)
        checkpoint.save(run.checkpoints_path, source.path.name, arrays, meta, tape)
    except BaseException:
        shutil.rmtree(run.path)
        raise
    return run
