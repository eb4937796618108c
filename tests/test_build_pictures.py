"""Which observations are pictures, what reads them, and that every member of the family does. Not for what convolutions
compute: see `networks/test_torsos.py`."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from gymnasium import spaces

from qdojo.build.player import build_player, check_model, torso_kind
from qdojo.config import make_config, preset_tables
from qdojo.envs.spaces import Spaces, check_spaces
from qdojo.errors import UsageError
from qdojo.networks.keras import KERAS


def seen(space: spaces.Space[Any]) -> Spaces:
    return check_spaces(SimpleNamespace(action_space=spaces.Discrete(3), observation_space=space), "any")


def box(*shape: int, dtype: Any = np.uint8, high: int = 255) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "scale"),
    [
        (box(10, 10, 3), 255),
        (box(128), 255),
        (box(4, 4, high=1), 1),
        (box(4, 4, high=0), 1),
        (box(10, 10, dtype=np.float32), 1),
        (spaces.Discrete(5), 1),
        (spaces.MultiDiscrete([2, 3]), 1),
        (spaces.MultiBinary((8, 8)), 1),
        (spaces.Dict(a=box(10, 10), b=spaces.Discrete(2)), 1),
        (spaces.Tuple([box(10, 10)]), 1),
        (spaces.Dict(observation=box(10, 10), action_mask=spaces.MultiBinary(3)), 255),
    ],
)
def test_only_a_uint8_box_is_scaled_by_its_largest_number(space: spaces.Space[Any], scale: int) -> None:
    assert seen(space).observation_scale == scale


@pytest.mark.parametrize(
    ("space", "torso"),
    [
        (box(8, 8), "impala"),
        (box(8, 9, 3), "impala"),
        (box(35, 84, 3), "impala"),
        (box(36, 36), "nature"),
        (box(4, 84, 84), "nature"),
        (box(7, 9, 3), "dense"),
        (box(9, 9, 9, 3), "dense"),
        (box(100), "dense"),
        (box(10, 10, dtype=np.float32), "dense"),
        (spaces.MultiBinary((10, 10)), "dense"),
    ],
)
def test_by_itself_a_picture_is_read_by_convolutions_that_fit_it_and_all_else_by_dense_layers(
    space: spaces.Space[Any], torso: str
) -> None:
    assert torso_kind(make_config("any"), seen(space)) == torso


def test_a_torso_may_be_chosen() -> None:
    assert torso_kind(make_config("any", torso="dense"), seen(box(84, 84, 4))) == "dense"
    assert torso_kind(make_config("any", torso="nature"), seen(box(84, 84, 4))) == "nature"
    assert torso_kind(make_config("any", torso="der"), seen(box(84, 84, 4))) == "der"
    assert torso_kind(make_config("any", torso="impala"), seen(box(5, 5, dtype=np.float32))) == "impala"


def test_what_btr_has_for_pictures_is_idle_elsewhere() -> None:
    assert torso_kind(make_config("any", "btr"), seen(box(4))) == "dense"
    assert torso_kind(make_config("any", "btr", spectral_norm=False), seen(box(4))) == "dense"
    assert torso_kind(make_config("any", "btr"), seen(box(84, 84))) == "impala"
    assert torso_kind(make_config("any", "btr", torso="nature"), seen(box(84, 84))) == "nature"


@pytest.mark.parametrize(
    ("space", "fields", "message"),
    [
        (box(4), {"torso": "impala"}, "torso is 'impala', but observations of shape (4,) are not images"),
        (spaces.Discrete(4), {"torso": "nature"}, "torso is 'nature', but observations of shape (4,) are not images"),
        (box(9, 9), {"torso": "nature"}, "an image of 9 x 9 is too small"),
        (box(4), {"spectral_norm": True}, "spectral_norm is set, but nothing reads it with torso='dense'"),
        (box(4), {"torso_width": 2}, "torso_width is set, but nothing reads it with torso='dense'"),
    ],
)
def test_what_does_not_go_together_is_refused(space: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        torso_kind(make_config("any", **fields), seen(space))


@pytest.mark.parametrize("field", [{"torso": "nature"}, {"torso_width": 2}, {"spectral_norm": True}])
def test_other_networks_have_no_torso(field: dict[str, Any]) -> None:
    (name,) = field
    with pytest.raises(UsageError, match=f"{name} is set, but nothing reads it with network='tutorial'"):
        make_config("any", "tutorial", **field)
    with pytest.raises(UsageError, match=f"{name} is set, but the network is a Keras model"):
        check_model(make_config("any", **field), seen(box(40, 40)), object())


def test_other_networks_normalise_nothing() -> None:
    with pytest.raises(UsageError, match="normalize_observations is set, but nothing reads it with network='a:b'"):
        make_config("any", network="a:b", normalize_observations=True)
    with pytest.raises(UsageError, match="normalize_observations is set, but the network is a Keras model"):
        check_model(make_config("any", normalize_observations=True), seen(box(40, 40)), object())
    check_model(make_config("ALE/Pong-v5", network=KERAS), seen(box(42, 42)), object())


@pytest.mark.parametrize(("torso", "field"), [("dense", {"torso_width": 2}), ("nature", {"spectral_norm": True})])
def test_width_is_of_convolutions_and_the_norm_is_impalas(torso: str, field: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(field))} is set, but nothing reads it with torso="):
        make_config("any", torso=torso, **field)


OWN = [name for name in preset_tables() if name != "tutorial"]
SMALL: dict[str, Any] = {"hidden": (8, 8), "batch_size": 2, "capacity_steps": 64, "heads": 2}


@pytest.mark.parametrize("preset", OWN)
def test_every_preset_reads_pictures(preset: str) -> None:
    config = make_config("any", preset)
    config = config.model_copy(update=SMALL if config.heads > 1 else {k: SMALL[k] for k in SMALL if k != "heads"})
    player = build_player(config, seen(box(3, 9, 10)), None)
    params = jax.eval_shape(player.network.init, jax.random.key(0))
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if len(leaf.shape) - (config.heads > 1) == 4]
    width = 2 if preset == "btr" else 1
    # A stage has five, and random priors have as many again.
    assert len(kernels) == 15 * (2 if config.prior_scale else 1)
    assert kernels[0][-4:] == (16 * width, 3, 3, 3)
    picture = jax.ShapeDtypeStruct((3, 9, 10), np.uint8)
    q, _ = jax.eval_shape(player.actor.values, params, picture, jax.eval_shape(player.actor.memory))
    assert q.shape == (3,)
