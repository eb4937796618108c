"""Collects what the page of an agent shows: its network, its scores, its training. `export/html.py` writes the page."""

import contextlib
import math
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from qdojo.build.named import takes_spaces
from qdojo.build.player import seen_spaces, support
from qdojo.config import Config, make_config, preset_tables
from qdojo.envs.native import sized
from qdojo.envs.spaces import Spaces
from qdojo.errors import QdojoError, UsageError
from qdojo.export.forward import Form, described
from qdojo.export.html import packed, page, rounded, scripts_of
from qdojo.ids import GIVEN
from qdojo.plots import population_curve
from qdojo.recorded import film
from qdojo.runs.metrics import evaluations, learning_curve
from qdojo.wording import printable

if TYPE_CHECKING:
    from qdojo.delivered import Run
    from qdojo.policy import Policy

EPISODES = 100
"""Episodes of the score that the page quotes."""
SNAPSHOT_BYTES = 48_000
"""Room in the page for the agents of the training's snapshots, in base64; but at least `LEAST_SNAPSHOTS` are in it."""
LEAST_SNAPSHOTS, MOST_SNAPSHOTS = 4, 12


def agent_page(run: "Run", member: int | None = None) -> bytes:
    """The page of one member of a run, by default the one with the best evaluation, as a UTF-8 HTML file.

    The agent plays in the page if the page has the environment's physics and all layers of the network. If not, the
    page shows recorded episodes, and says why. Raises UsageError or EnvironmentFailure if none can be recorded.
    """
    policy = run.policy(member)
    spec = run.opened.spec
    environment = run.config.env if spec.is_native else spec.native_id
    told: dict[str, Any] = {"network": None, "weights": "", "snapshots": [], "film": None}
    try:
        if not scripts_of(environment):
            raise UsageError("the page cannot simulate this environment")
        network, weights = described_network(run, policy)
        told |= {"network": network, "weights": packed(weights), "weight_count": weights.size}
        told |= {"snapshots": _snapshots(run, policy.member), "score": _played(run, policy.member)}
    except UsageError as error:
        environment = None
        told |= {"film": film(run, policy, str(error).removesuffix(".")), "score": _scored(run, policy.member)}
    return page(
        {
            "version": version("qdojo"),
            "env": printable(run.config.env),
            "preset": run.config.preset,
            "run": printable(run.directory.name),
            "environment": environment,
            "rules": rules(environment),
            "bound": run.bound_steps,
            "delivered_step": _steps(run),
            "steps": _steps(run),
            "command": command(run.config),
            "settings": unusual(run.config),
            **told,
            **_training(run, policy.member),
        }
    )


def rules(environment: str | None) -> dict[str, Any]:
    """What the page's script must know of an environment beyond its id."""
    kind, size = sized(environment or "") or ("", 0)
    if kind != "DeepSea":
        return {"size": size} if size else {}
    from qdojo.envs.native.deep_sea import going_right

    return {"size": size, "right": "".join(map(str, going_right(size).ravel()))}


def described_network(run: "Run", policy: "Policy") -> tuple[dict[str, Any], np.ndarray]:
    """The layers and weights of a policy's network. Raises UsageError if the page cannot compute it."""
    model = run.opened.model
    if model is not None and takes_spaces(model):
        raise UsageError("this agent's network is an Equinox module of its own, which the page cannot compute")
    keras = None if model is None else run.keras_model(policy.member)
    return described(policy.params, form_of(run.config, run.opened.spaces), keras)


def form_of(config: Config, spaces: Spaces) -> Form:
    """What the outputs of the network of these settings mean."""
    outputs = {"c51": config.atoms, "qrdqn": config.quantiles, "iqn": 0, "fqf": 0}
    kinds = {"c51": "c51", "qrdqn": "qr", "iqn": "implicit", "fqf": "implicit"}
    distribution = config.distribution or ""
    return Form(
        form=kinds.get(distribution, "q"),
        observation_shape=seen_spaces(config, spaces).observation_shape,
        frame_shape=spaces.observation_shape,
        frames=config.frame_stack,
        actions=spaces.num_actions,
        outputs=outputs.get(distribution, 1),
        support=tuple(np.asarray(support(config)).tolist()) if distribution == "c51" else (),
        fractions=config.iqn_acting_fractions,
        cvar=config.cvar,
        prior_scale=config.prior_scale,
        heads=config.heads,
        rescaled=config.value_rescaling,
    )


def _snapshots(run: "Run", member: int) -> list[dict[str, Any]]:
    """Step and rounded weights of some agents of the training, from the untrained one on, denser at its start."""
    kept = run.snapshots(member)
    if not kept or run.opened.model is not None:
        return []
    each = len(rounded(described_network(run, kept[0][1])[1]))
    count = min(len(kept), MOST_SNAPSHOTS, max(LEAST_SNAPSHOTS, SNAPSHOT_BYTES // each))
    steps = np.array([step for step, _ in kept])
    wished = steps[-1] * np.linspace(0, 1, count + 1)[:-1] ** 2
    chosen = sorted({int(np.abs(steps - step).argmin()) for step in wished})
    return [{"step": kept[i][0], "weights": rounded(described_network(run, kept[i][1])[1])} for i in chosen]


def _played(run: "Run", member: int) -> dict[str, Any]:
    """Mean return of unseen episodes, as `evaluate` plays them, with the 95 % bootstrap interval of the mean."""
    returns = run.evaluate(EPISODES).returns[member]
    draws = np.random.default_rng(0).integers(returns.size, size=(2_000, returns.size))
    low, high = np.quantile(returns[draws].mean(axis=1), [0.025, 0.975])
    return {"mean": float(returns.mean()), "low": float(low), "high": float(high), "episodes": EPISODES}


def _scored(run: "Run", member: int) -> dict[str, Any] | None:
    """The score that the run itself reports for this member, if it has one."""
    judged = run.result.get("eval")
    if judged is None:
        return None
    return {"mean": judged["mean"][member], "low": None, "high": None, "episodes": judged["episodes"]}


def _steps(run: "Run") -> int:
    return int(run.result.get("steps", run.config.steps))


def _training(run: "Run", member: int) -> dict[str, Any]:
    """The member's learning curve and its greedy evaluations."""
    path = run.directory.metrics_path
    curves, dots = learning_curve(path), evaluations(path).get(member)
    curve = population_curve({member: curves[member]}) if member in curves else None
    line = ([], []) if curve is None else (curve.steps, curve.middle)
    points = ([], []) if dots is None else (dots.steps, dots.values)
    return {"curve": _line(*line), "evaluations": _line(*points)}


def _line(steps: Any, values: Any, most: int = 150) -> dict[str, list[Any]]:
    every = max(1, math.ceil(len(steps) / most))
    return {
        "steps": [round(float(step)) for step in steps[::every]],
        "values": [float(f"{value:.5g}") for value in values[::every]],
    }


def unusual(config: Config) -> list[tuple[str, str]]:
    """The settings that differ from the defaults, whatever set them, as names and values."""
    names = [name for name, field in Config.model_fields.items() if getattr(config, name) != field.default]
    return [(name, printable(_told(getattr(config, name)))) for name in names if name not in ("env", "preset", "vary")]


def _told(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)


def command(config: Config) -> str:
    """The command that trains this run again; empty if its environment or network was given as a Python object."""
    if config.env.endswith(GIVEN) or config.network == "keras" or config.preset not in preset_tables():
        return ""
    given: dict[str, Any] = {}
    for _ in Config.model_fields:
        # Settings that follow from those already given are equal by now, and need no flag.
        differing = _differing(config, given)
        if not differing:
            break
        given |= differing
    flags = [flag for name, value in given.items() for flag in _flag(name, value)]
    preset = [] if config.preset == "default" else ["--preset", config.preset]
    return shlex.join(["qdojo", "train", config.env, *preset, *flags])


def _differing(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """The first setting in which a config differs from that of its preset with the `given` settings; {} if none does
    that may be given."""
    usual = make_config(config.env, config.preset, **given)
    for name in Config.model_fields:
        value = config.vary.get(name, getattr(config, name))
        if name == "vary" or name in given or value == usual.vary.get(name, getattr(usual, name)):
            continue
        with contextlib.suppress(QdojoError):
            make_config(config.env, config.preset, **given, **{name: value})
            return {name: value}
    return {}


def _flag(name: str, value: Any) -> list[str]:
    flag, several = name.replace("_", "-"), isinstance(value, tuple)
    if several and isinstance(value[0], float):  # one for each group of members
        return [f"--{flag}", ",".join(map(str, value))]
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *(map(str, value) if several else [_told(value)])]
