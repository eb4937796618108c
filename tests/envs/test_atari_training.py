"""An Atari game is trained on for real, and a run that is killed in mid-game continues to the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import qdojo
from qdojo.runs import checkpoint
from qdojo.runs.directory import list_runs

SETTINGS: dict[str, Any] = {
    "steps": 320,
    "hidden": [16],
    "torso_width": 0.25,
    "num_envs": 2,
    "collect_steps": 32,
    "updates_per_step": 1 / 16,
    "batch_size": 8,
    "capacity_steps": 256,
    "warmup_steps": 64,
    "epsilon_decay_steps": 200,
    "report_every_steps": 32,
    "eval_every_steps": None,
    "eval_episode_steps": 60,
    "final_eval_episodes": 2,
    "checkpoint_every_seconds": 0.0,
    "progress": False,
}


class Killed:
    """Ends this process at its sixth report, without a word."""

    reports = 0

    def reported(self, report: Any) -> None:
        self.reports += 1
        if self.reports == 6:
            os.kill(os.getpid(), signal.SIGKILL)


def train(root: str, *observers: Any) -> qdojo.Run:
    return qdojo.train("ALE/Breakout-v5", root=root, observers=observers, **SETTINGS)


def test_a_game_is_trained_on_killed_and_continued(tmp_path: Path) -> None:
    here = Path(__file__).parent
    program = f"from test_atari_training import *; train({str(tmp_path / 'killed')!r}, Killed())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (left,) = list_runs(tmp_path / "killed")
    saved = checkpoint.load_latest(left.checkpoints_path)
    assert 0 < saved.meta["steps"] < SETTINGS["steps"]
    whole, resumed = train(str(tmp_path / "whole")), qdojo.resume(left.path, progress=False)
    ours, theirs = (checkpoint.load_latest(run.directory.checkpoints_path).arrays for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert resumed.result["eval"] == whole.result["eval"]
    # Something was learned from frames that move: the weights of the first convolution, and what lies on the tape.
    start = saved.arrays["state/agents/params/inputs/torso/convolutions/0/kernel"]
    assert not np.array_equal(theirs["state/agents/params/inputs/torso/convolutions/0/kernel"], start)
    assert len(np.unique(theirs["state/tape/words"][:, 0, 0, 3:], axis=0)) > 20
