"""`qdojo show`: the settings, metrics, scores and learning curve of one run."""

from typing import Any

import numpy as np

from qdojo.cli.groups import scores_by_combination
from qdojo.cli.options import RUNS, Json, RunName, RunsFolder
from qdojo.cli.output import command, emit, say, show_table, tell
from qdojo.config import Config, read_config
from qdojo.envs.atari_names import human_clause
from qdojo.errors import DamagedFile
from qdojo.plots import population_curve, terminal_curve
from qdojo.runs.directory import RunDirectory, find, read_result, status
from qdojo.runs.metrics import Curve, Latest, evaluations, latest, learning_curve
from qdojo.runs.result import Result
from qdojo.statistics import interquartile_mean, member_interval
from qdojo.wording import scores_of_members

SHARE, TD_ERRORS = "action_share_", ("td_error_p10", "td_error_median", "td_error_p90")
MOST_SHARES = 4
"""Number of actions whose share is shown."""


def show(run: RunName, /, *, runs: RunsFolder = RUNS, json: Json = False) -> None:
    """Show a run: settings, metrics and learning curve."""
    found = find(runs, run)
    config = _config(found)
    result, numbers = _result(found), latest(found.metrics_path)
    scores, curve = evaluations(found.metrics_path), population_curve(learning_curve(found.metrics_path))
    if json:
        emit(
            {
                "run": found.path,
                "name": found.name,
                "env": config.env,
                "preset": config.preset,
                "status": status(found),
                "steps": numbers.steps,
                "config": config.model_dump(mode="json"),
                "metrics": numbers.values,
                "evaluations": _by_steps(scores),
                "curve": {"steps": [], "iqm": []} if curve is None else {"steps": curve.steps, "iqm": curve.middle},
                "result": result,
            }
        )
        return
    tell(f"{found.path}: {config.env}, preset {config.preset}, {status(found)} after {numbers.steps:,} steps\n")
    show_table(("setting", "value", "default"), _unusual(config))
    tell()
    show_table(("now", "mean over members"), now(numbers))
    for line in _judgements(config, scores, result):
        tell(f"\n{line}")
    if curve is not None:
        tell(f"\nreturn while learning\n{terminal_curve(curve.steps, curve.middle)}")


def _result(run: RunDirectory) -> Result | None:
    """Return how the run ended. A damaged file only prints a message, so that everything else is still shown."""
    try:
        return read_result(run)
    except DamagedFile as error:
        say(f"{str(error).removesuffix('.')}; `{command('resume', run.path)}` writes it again.")
        return None


def _config(run: RunDirectory) -> Config:
    try:
        return read_config(run.config_path.read_text(encoding="utf-8"), str(run.config_path))
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{run.config_path} cannot be read: {error}.") from error


def now(numbers: Latest) -> list[tuple[str, str]]:
    """Return the latest metrics, with the quantiles of the TD error and the shares of actions in one row each."""
    now = {name: float(np.mean(values)) for name, values in numbers.values.items()}
    shares = {name: now.pop(name) for name in tuple(now) if name.startswith(SHARE)}
    low, middle, high = (now.pop(name, None) for name in TD_ERRORS)
    rows = [(name, _number(value)) for name, value in now.items()]
    if low is not None and middle is not None and high is not None:
        rows.append(("td_error", f"{_number(middle)} ({_number(low)} to {_number(high)})"))
    if shares:
        most = sorted(shares, key=lambda name: -shares[name])[:MOST_SHARES]
        told = ", ".join(f"{name.removeprefix(SHARE)}: {shares[name]:.0%}" for name in most)
        rows.append(("action_share", told if len(most) == len(shares) else f"{told}, others less"))
    return rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _unusual(config: Config) -> list[tuple[str, str, str]]:
    """Return the settings that differ from the defaults of Config, whatever set them."""
    rows = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if value != field.default and name not in ("env", "preset"):
            rows.append((name, _told(value), _told(field.default)))
    return rows


def _told(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)


def _by_steps(scores: dict[int, Curve]) -> list[dict[str, Any]]:
    """Return one entry per evaluation, with the mean of each member."""
    found: dict[int, list[float]] = {}
    for member in sorted(scores):
        for steps, mean in zip(scores[member].steps.tolist(), scores[member].values.tolist(), strict=True):
            found.setdefault(steps, []).append(mean)
    return [{"steps": steps, "mean": found[steps]} for steps in sorted(found)]


def _judgements(config: Config, scores: dict[int, Curve], result: Result | None) -> list[str]:
    told = []
    if scores:
        last = _by_steps(scores)[-1]
        each = np.array(last["mean"])
        means = scores_of_members(last["mean"], interquartile_mean(each), member_interval(each))
        told.append(f"last evaluation, at {last['steps']:,} steps: {means}")
    if result is not None and "eval" in result:
        evaluation = result["eval"]
        means = scores_of_members(evaluation["mean"], evaluation["iqm"], evaluation.get("interval"))
        means += human_clause(config.env, evaluation["iqm"])
        groups = scores_by_combination(config, evaluation["mean"])
        told.append("\n".join([f"delivered: {means}, {evaluation['episodes']} unseen episodes each", *groups]))
    if result is not None and "error" in result:
        told.append(f"failed: {result['error']}")
    return told
