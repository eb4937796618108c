"""Recurrent networks, whose memory lasts one episode, for DRQN and R2D2. The losses are in `agents/recurrent.py`."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qdojo.errors import UsageError
from qdojo.networks.inputs import INPUTS, Design, Inputs, observed
from qdojo.networks.mlp import Hidden, Linear, layers, outputs_of
from qdojo.networks.network import Network
from qdojo.observations import in_place
from qdojo.types import Memory, Observation, Params


class GRU(eqx.Module):
    """A gated recurrent unit, whose output is its memory.

    Cho et al. (2014), in the form of the first version (arXiv:1406.1078v1), which cuDNN also uses: the reset gate
    multiplies U h instead of h, so a single matrix product with the memory suffices.
    """

    of_input: Linear
    of_memory: Linear

    def __init__(self, inputs: int, width: int, key: Array) -> None:
        input_key, memory_key = jax.random.split(key)
        self.of_input = Linear(inputs, 3 * width, input_key)
        self.of_memory = Linear(width, 3 * width, memory_key)

    def __call__(
        self, x: Float[Array, "inputs"], h: Float[Array, "width"]
    ) -> tuple[Float[Array, "width"], Float[Array, "width"]]:
        """r, z = sigmoid(W x + U h); c = tanh(W x + r (U h)); h' = z h + (1 - z) c. Returns (output, memory)."""
        reset_x, keep_x, new_x = jnp.split(self.of_input(x), 3)
        reset_h, keep_h, new_h = jnp.split(self.of_memory(h), 3)
        keep = jax.nn.sigmoid(keep_x + keep_h)
        new = jnp.tanh(new_x + jax.nn.sigmoid(reset_x + reset_h) * new_h)
        h = keep * h + (1.0 - keep) * new
        return h, h

    def memory(self) -> Float[Array, "width"]:
        return jnp.zeros(self.of_memory.weight.shape[1])


class LSTMMemory(NamedTuple):
    """Memory of an LSTM."""

    output: Float[Array, "*rows width"]
    cell: Float[Array, "*rows width"]


class LSTM(eqx.Module):
    """Long short-term memory: Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000)."""

    of_input: Linear
    of_memory: Linear

    def __init__(self, inputs: int, width: int, key: Array) -> None:
        """The forget gate's bias starts 1 higher, so a new network forgets slowly (Gers et al., 2000, section 4)."""
        input_key, memory_key = jax.random.split(key)
        self.of_input = Linear(inputs, 4 * width, input_key)
        layer = Linear(width, 4 * width, memory_key)
        self.of_memory = eqx.tree_at(lambda layer: layer.bias, layer, layer.bias.at[width : 2 * width].add(1.0))

    def __call__(self, x: Float[Array, "inputs"], memory: LSTMMemory) -> tuple[Float[Array, "width"], LSTMMemory]:
        """i, f, g, o of W x + U h: c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c')."""
        enter, keep, new, leave = jnp.split(self.of_input(x) + self.of_memory(memory.output), 4)
        cell = jax.nn.sigmoid(keep) * memory.cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
        output = jax.nn.sigmoid(leave) * jnp.tanh(cell)
        return output, LSTMMemory(output, cell)

    def memory(self) -> LSTMMemory:
        nothing = jnp.zeros(self.of_memory.weight.shape[1])
        return LSTMMemory(nothing, nothing)


CELLS: dict[str, Any] = {"gru": GRU, "lstm": LSTM}


class RecurrentMLP(eqx.Module):
    """Hidden layers, with a recurrent cell of the last layer's width in its place, and the parameters of the head."""

    inputs: Inputs
    hidden: list[Hidden]
    cell: GRU | LSTM
    head: Params

    def __init__(self, design: Design, cell: str, head: Callable[[Array], Params], key: Array) -> None:
        *shared, width = design.hidden
        *keys, cell_key, head_key = jax.random.split(key, len(shared) + 2)
        self.inputs = Inputs(design, jax.random.fold_in(key, INPUTS))
        self.hidden = layers(design, shared, keys)
        self.cell = CELLS[cell](shared[-1] if shared else design.features, width, cell_key)
        self.head = head(head_key)

    def __call__(self, observation: Observation, memory: Memory) -> tuple[Float[Array, "width"], Memory]:
        x = self.inputs(observation)
        for layer in self.hidden:
            x = layer(x)
        return self.cell(x, memory)


def head_design(design: Design, implicit: bool) -> Design:
    """The design of a head whose input is the features of `recurrent(design, ...)`.

    A dueling head's streams and an `implicit` head have one hidden layer as wide as the cell. Raises UsageError if
    `design.hidden` has no layer.
    """
    if not design.hidden:
        raise UsageError("hidden has no layer, but its last width is that of the memory; use hidden=[64, 64], say.")
    width = design.hidden[-1]
    hidden = (width,) if design.dueling or implicit else ()
    features = design._replace(observation_shape=(width,), hidden=hidden)
    return features._replace(categories=(), one_hot=False, normalized=False, scale=1, torso="dense")


def recurrent(design: Design, cell: Literal["gru", "lstm"], head: Network) -> Network:
    """A cell of width `design.hidden[-1]` after the other hidden layers, and a head built from `head_design`.

    `apply` and `proposal` are the head's functions; they take `features`, the cell's output of shape `[width]`.
    """

    def init(key: Array) -> RecurrentMLP:
        return RecurrentMLP(design, cell, head.init, key)

    def memory() -> Memory:
        like = jax.eval_shape(lambda: init(jax.random.key(0)).cell.memory())
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def features(params: RecurrentMLP, observation: Observation, memory: Memory) -> tuple[Any, Memory]:
        output, memory = params(observation, memory)
        return in_place(observation, output), memory

    def hidden(params: RecurrentMLP, observation: Observation) -> list[Float[Array, "..."]]:
        return outputs_of(params.hidden, params.inputs(observation))

    of_head = head.through(lambda params: params.head)
    return of_head._replace(init=init, features=features, memory=memory, observe=observed, hidden=hidden)
