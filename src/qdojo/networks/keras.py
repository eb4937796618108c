"""Keras models as Q-networks. `keras_dense.py` converts built-in networks; `export/keras.py` writes files.

Importing Keras takes seconds, so no module imports it at the top; each of these functions does so when called.
"""

import contextlib
import copy
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from qdojo.errors import UsageError
from qdojo.networks.inputs import legal_only
from qdojo.networks.network import Network
from qdojo.observations import plain
from qdojo.types import Observation

if TYPE_CHECKING:
    import keras

    ModelOrBuild: TypeAlias = keras.Model | Callable[[], keras.Model]

KERAS = "keras"
"""Value of the setting `network` for a model that was passed as a Python object."""
Initialiser = Callable[..., Shaped[Array, "..."]]


class KerasParams(NamedTuple):
    """The values of a Keras model's variables, in the order of `trainable_variables` and `non_trainable_variables`."""

    trainable: list[Shaped[Array, "..."]]
    non_trainable: list[Shaped[Array, "..."]]


def import_keras() -> Any:
    """Import Keras with its JAX backend. Raises `UsageError` if it was already imported with another backend."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if keras.config.backend() != "jax":
        raise UsageError(
            f"Keras was imported with the {keras.config.backend()} backend; "
            "set KERAS_BACKEND=jax before Keras is first imported."
        )
    return keras


@contextlib.contextmanager
def keras_settings() -> Iterator[None]:
    """Allow rank and dtype promotion, which Keras relies on, whatever stricter JAX settings the caller uses."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@keras_settings()
def keras_network(model_or_build: "ModelOrBuild", observation_shape: tuple[int, ...], num_actions: int) -> Network:
    """A Keras model, or a function without arguments that builds one, as a Q-network. Parameters are `KerasParams`.

    Only the architecture of the model is used: every member draws its own trainable weights from its key with the
    model's initialisers, even if the model has loaded weights (`params_of` returns those). An initialiser with a
    fixed integer seed gives all members the same weights. Non-trainable variables (frozen layers, statistics of a
    Normalization layer) keep the values of the given model. The model runs in inference mode.

    Raises `UsageError` if the model does not accept one observation or does not return one value per action.
    """
    model = _built(model_or_build, observation_shape)
    initialisers = _initialisers(model, observation_shape)
    shapes = [(variable.shape, variable.dtype) for variable in model.trainable_variables]
    fixed = params_of(model).non_trainable
    forward = _forward(model)
    _check_shapes(model, forward, observation_shape, num_actions)

    @keras_settings()
    def init(key: Array) -> KerasParams:
        keys = jax.random.split(key, max(len(shapes), 1))
        drawn = [
            _reseeded(initialiser, keys[i])(shape, dtype=dtype)
            for i, (initialiser, (shape, dtype)) in enumerate(zip(initialisers, shapes, strict=True))
        ]
        return KerasParams(drawn, [jnp.asarray(value) for value in fixed])

    @keras_settings()
    def apply(params: KerasParams, observation: Observation) -> Float[Array, "actions"]:
        q = forward(params.trainable, params.non_trainable, plain(observation)[None])[0].astype(jnp.float32)
        return legal_only(q, observation)

    def partition(params: KerasParams) -> tuple[KerasParams, KerasParams]:
        nothing = jax.tree.map(lambda _: None, params)
        return nothing._replace(trainable=params.trainable), nothing._replace(non_trainable=params.non_trainable)

    return Network(init, apply, partition=partition)


@keras_settings()
def model_to_json(model_or_build: "ModelOrBuild", observation_shape: tuple[int, ...]) -> str | None:
    """The architecture of a Keras model as JSON, without its weights; None if Keras cannot read it back, for example
    because the model uses custom classes."""
    try:
        told: str = _built(model_or_build, observation_shape).to_json()
        model_from_json(told)
    except Exception:  # the model is user code and may raise anything
        return None
    return told


@keras_settings()
def model_from_json(told: str) -> "keras.Model":
    """A model with the architecture that `model_to_json` wrote and new weights. It can hold only Keras' own layers, so
    no foreign code runs. Raises UsageError if the JSON describes no model."""
    keras = import_keras()
    try:
        model = keras.models.model_from_json(told)
        if not isinstance(model, keras.Model):
            raise TypeError(f"it is a {type(model).__name__}")
    except Exception as error:  # the file may hold anything
        raise UsageError(
            f"The run's Keras model cannot be read ({type(error).__name__}); pass the model that it was trained with "
            "as network=."
        ) from error
    return model


def params_of(model: "keras.Model") -> KerasParams:
    """The current values of a built model's variables."""
    return KerasParams(
        [jnp.asarray(variable.value) for variable in model.trainable_variables],
        [jnp.asarray(variable.value) for variable in model.non_trainable_variables],
    )


@keras_settings()
def with_params(
    model_or_build: "ModelOrBuild", params: KerasParams, observation_shape: tuple[int, ...]
) -> "keras.Model":
    """A new model of the same architecture with one member's parameters. Raises `UsageError` if their shapes differ."""
    model = _built(model_or_build, observation_shape)
    if model is model_or_build:
        model = _twin(model, observation_shape)
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    values = [np.asarray(value) for value in (*params.trainable, *params.non_trainable)]
    expected, found = [variable.shape for variable in variables], [value.shape for value in values]
    if expected != found:
        raise UsageError(f"The model has variables of the shapes {expected}, but the parameters have {found}.")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return model


@keras_settings()
def tutorial_network(observation_shape: tuple[int, ...], num_actions: int) -> "keras.Model":
    """The tutorial's Q-network: two dense ReLU layers of 24 units and a linear layer with one value per action."""
    keras = import_keras()
    flatten = [] if len(observation_shape) == 1 else [keras.layers.Flatten()]
    return keras.Sequential(
        [
            keras.layers.Input(observation_shape),
            *flatten,
            keras.layers.Dense(24, activation="relu"),
            keras.layers.Dense(24, activation="relu"),
            keras.layers.Dense(num_actions, activation="linear"),
        ]
    )


def _built(model_or_build: Any, observation_shape: tuple[int, ...]) -> Any:
    keras = import_keras()
    is_model = isinstance(model_or_build, keras.Model)
    model = model_or_build if is_model or not callable(model_or_build) else model_or_build()
    if not isinstance(model, keras.Model):
        raise UsageError(f"The network is a {type(model).__name__}; give a keras.Model or a function that builds one.")
    return _build(model, observation_shape)


def _build(model: Any, observation_shape: tuple[int, ...]) -> Any:
    keras = import_keras()
    if not model.built:
        try:
            model(keras.Input(observation_shape))
        except Exception as error:  # the model is user code and may raise anything
            raise UsageError(
                f"The network {model.name!r} cannot take observations of shape {observation_shape}: {error}"
            ) from error
    return model


def _twin(model: Any, observation_shape: tuple[int, ...]) -> Any:
    """A new model of the same architecture, with new values and not compiled (`clone_model` would compile it)."""
    keras = import_keras()
    try:
        with keras.saving.custom_object_scope({type(part).__name__: type(part) for part in _parts(model)}):
            twin = type(model).from_config(model.get_config())
    except Exception as error:  # from_config of any layer may raise anything
        raise UsageError(
            f"The network {model.name!r} cannot be copied for each member: {error} "
            "Give every custom class a get_config(), and use no Lambda layers."
        ) from error
    return _build(twin, observation_shape)


def _parts(model: Any) -> Iterator[Any]:
    """All layers of a model, nested ones included, and their initialisers: the parts that may be custom classes."""
    keras = import_keras()
    for layer in model.layers:
        yield layer
        yield from (value for value in vars(layer).values() if isinstance(value, keras.Initializer))
        if hasattr(layer, "layers"):
            yield from _parts(layer)


def _initialisers(model: Any, observation_shape: tuple[int, ...]) -> list[Initialiser]:
    """The initialiser of each trainable variable. Keras drops it once the variable has a value, and a
    `StatelessScope` delays that."""
    keras = import_keras()
    with keras.StatelessScope():
        twin = _twin(model, observation_shape)
        return [variable._initializer for variable in twin.trainable_variables]


def _reseeded(initialiser: Any, key: Array) -> Initialiser:
    """The initialiser with the member's key as its seed. Keras' constructors accept only integers, but its JAX backend
    uses a key unchanged, so weights can be drawn under `jit` and `vmap`."""
    keras = import_keras()
    if not hasattr(initialiser, "seed"):
        return initialiser
    if isinstance(initialiser, keras.Initializer) and isinstance(initialiser.get_config().get("seed"), int):
        return initialiser
    initialiser = copy.copy(initialiser)
    initialiser.seed = key
    return initialiser


def _forward(model: Any) -> Callable[..., Any]:
    """(trainable, non-trainable, batch) -> output, with `training=False` if the model's `call` accepts it."""
    accepted = inspect.signature(model.call).parameters.values()
    knows = any(parameter.name == "training" or parameter.kind is parameter.VAR_KEYWORD for parameter in accepted)
    mode = {"training": False} if knows else {}
    return lambda trainable, frozen, batch: model.stateless_call(trainable, frozen, batch, **mode)[0]


def _check_shapes(
    model: Any, forward: Callable[..., Any], observation_shape: tuple[int, ...], num_actions: int
) -> None:
    declared = getattr(model, "inputs", None)
    if declared is not None and len(declared) == 1:
        expected = tuple(declared[0].shape[1:])
        fits = len(expected) == len(observation_shape) and all(
            e in (None, o) for e, o in zip(expected, observation_shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"The network {model.name!r} takes inputs of shape {expected}, "
                f"but the observations have shape {observation_shape}."
            )
    observation = jax.ShapeDtypeStruct((1, *observation_shape), jnp.float32)
    try:
        output = jax.eval_shape(forward, *params_of(model), observation)
    except Exception as error:  # the model is user code and may raise anything
        raise UsageError(
            f"The network {model.name!r} cannot take observations of shape {observation_shape}: {error}"
        ) from error
    found = getattr(output, "shape", None)
    if found != (1, num_actions):
        given = "several arrays" if found is None else f"{math.prod(found[1:])} values of shape {found[1:]}"
        raise UsageError(
            f"The network {model.name!r} returns {given}, but the environment has {num_actions} actions: "
            f"end it with a layer of {num_actions} values."
        )
