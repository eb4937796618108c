"""Reads weights from Keras HDF5 files into arrays. `export/keras.py` writes them.

It uses h5py alone: no Keras object is created from a file, no link is followed and no code is run. Attributes are not
read either: they list a legacy file's layers in order, but a few altered bytes in them make the HDF5 library loop
forever. So layers are ordered by their shapes, and by their names where shapes are equal.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from qdojo.errors import DamagedFile, UsageError

if TYPE_CHECKING:
    import h5py

MOST_NAMES = 1000
"""Largest number of layers in a file, and of variables in a layer, that is read."""
_DEEPEST = 8

Weights = list[Float[np.ndarray, "..."]]


def load_weights(path: Path, shapes: Sequence[tuple[int, ...]]) -> Weights:
    """The weights in a Keras `.weights.h5`, or in a legacy `.h5` of weights or of a whole model, as float32.

    `shapes` are the shapes of a Sequential's variables, layer by layer: a Dense layer's kernel, then its bias. Nothing
    is read until the declared shapes match, so it takes no more memory than the network. Layers of equal shapes come
    in the order of their names, as Keras numbers them: `dense_9`, `dense_10`. Raises `UsageError` if the file does
    not exist or holds another architecture, `DamagedFile` if it cannot be read or links to other data.
    """
    import h5py

    if not path.is_file():
        raise UsageError(f"The weights file {path} does not exist.")
    try:
        with h5py.File(path, "r") as file:
            variables = _in_order(_layers(file, path), [tuple(shape) for shape in shapes], path)
            with np.errstate(over="ignore"):
                weights = [np.asarray(variable[()], np.float32) for variable in variables]
    except OSError as error:
        raise DamagedFile(f"The weights file {path} cannot be read: {error}.") from error
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise DamagedFile(f"The weights file {path} is damaged: {error}.") from error
    if not all(np.isfinite(weight).all() for weight in weights):
        raise DamagedFile(f"The weights file {path} holds values that are not finite.")
    return weights


def _in_order(layers: list[list["h5py.Dataset"]], shapes: list[tuple[int, ...]], path: Path) -> list["h5py.Dataset"]:
    """The variables of all layers, in an order of the layers in which the shapes of the variables are `shapes`."""
    left = list(layers)
    found: list[h5py.Dataset] = []
    while left:
        fitting = (layer for layer in left if _shapes(layer) == shapes[len(found) : len(found) + len(layer)])
        layer = next(fitting, None)
        if layer is None:
            break
        left.remove(layer)
        found += layer
    if left or len(found) != len(shapes):
        declared = [shape for layer in layers for shape in _shapes(layer)]
        raise UsageError(
            f"The weights in {path} have the shapes {_listed(declared)}, but the network needs {_listed(shapes)}."
        )
    return found


def _shapes(layer: list["h5py.Dataset"]) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in layer]


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    """The shapes as text, at most 32 of them, because a malicious file may list any number."""
    more = f" and {len(shapes) - 32} more" if len(shapes) > 32 else ""
    return (", ".join(str(shape) for shape in shapes[:32]) or "of no variable") + more


def _layers(file: "h5py.File", path: Path) -> list[list["h5py.Dataset"]]:
    """The layers that have variables, sorted by name. They lie in `layers` in Keras 3 (under another name in late
    Keras 2), in `model_weights` in a legacy model, and at the root in a legacy weights file."""
    named = [name for name in ("layers", "_layer_checkpoint_dependencies", "model_weights") if _has(file, name)]
    top = _group(file, named[0], path) if named else file
    read = _legacy_layer if named in ([], ["model_weights"]) else _layer
    layers = [read(_group(top, name, path), path) for name in _names(top, path)]
    layers = [layer for layer in layers if layer]
    if not layers:
        raise DamagedFile(f"The weights file {path} holds no weights in one of the layouts that Keras writes.")
    return layers


def _layer(layer: "h5py.Group", path: Path) -> list["h5py.Dataset"]:
    """The variables of a Keras 3 layer: `vars/0`, `vars/1`, ..."""
    if not _has(layer, "vars"):
        return []
    variables = _group(layer, "vars", path)
    return [_dataset(variables, name, path) for name in _names(variables, path)]


def _legacy_layer(layer: "h5py.Group", path: Path) -> list["h5py.Dataset"]:
    """The variables of a Keras 1 or 2 layer: `kernel:0` and `bias:0`, in nested groups named after layer and model."""
    for _ in range(_DEEPEST):
        names = _names(layer, path)
        if len(names) != 1 or names[0].startswith(("kernel", "bias")):
            break
        layer = _group(layer, names[0], path)
    unknown = [name for name in names if name.removesuffix(":0") not in ("kernel", "bias")]
    if unknown:
        raise UsageError(f"{path} holds {unknown[0][:80]!r}, but only Dense layers can be read from a legacy file.")
    return [_dataset(layer, name, path) for name in sorted(names, reverse=True)]


def _names(group: "h5py.Group", path: Path) -> list[str]:
    """The names in a group, in the order of Keras' numbering: `dense`, `dense_1`, ..., `dense_10`."""
    if len(group) > MOST_NAMES:
        raise DamagedFile(f"The weights file {path} has {len(group)} names in {group.name}; the most is {MOST_NAMES}.")

    def numbered(name: str) -> list[tuple[bool, int, str]]:
        # Numeric parts compare as numbers, all other parts as text.
        parts = re.split(r"([0-9]{1,18})", name)
        return [(True, int(part), "") if part.isdecimal() else (False, 0, part) for part in parts]

    return sorted(group, key=numbered)


def _has(group: "h5py.Group", name: str) -> bool:
    """Whether the group has this name. Unlike `in`, this does not follow a link."""
    return group.get(name, getlink=True) is not None


def _group(group: "h5py.Group", name: str, path: Path) -> "h5py.Group":
    import h5py

    child = _child(group, name, path)
    if not isinstance(child, h5py.Group):
        raise DamagedFile(f"The weights file {path} has no group at {group.name}/{name}.")
    return child


def _child(group: "h5py.Group", name: str, path: Path) -> Any:
    """A direct child by a hard link. Soft and external links may point anywhere, so they are refused."""
    import h5py

    link = group.get(name, getlink=True)
    if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
        raise DamagedFile(f"The weights file {path} has a link at {group.name}/{name}; links are not followed.")
    if link is None:
        raise DamagedFile(f"The weights file {path} has nothing at {group.name}/{name}.")
    return group[name]


def _dataset(group: "h5py.Group", name: str, path: Path) -> "h5py.Dataset":
    """A float array stored in this file in one contiguous piece, as Keras writes it, so it has the declared size."""
    import h5py

    dataset = _child(group, name, path)
    where = f"{group.name}/{name}"
    if not isinstance(dataset, h5py.Dataset):
        raise DamagedFile(f"The weights file {path} holds no array at {where}.")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise DamagedFile(f"The weights file {path} holds values of type {dataset.dtype} at {where}, not floats.")
    if dataset.is_virtual or dataset.external is not None:
        raise DamagedFile(f"The weights file {path} keeps {where} in another file, which is not read.")
    if dataset.chunks is not None:
        raise DamagedFile(f"The weights file {path} keeps {where} in chunks, which Keras never writes.")
    return dataset
