"""Weights read from Keras' HDF5 files into arrays. Not for writing them: see `export/keras.py`.

Read with h5py alone: no Keras object is made from a file, and nothing in one is followed or run.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from qdojo.errors import DamagedFile, UsageError

if TYPE_CHECKING:
    import h5py

MOST_NAMES = 10_000
"""A file that lists more layers or variables than this is not read."""
_LONGEST_NAME_BYTES = 1024

Weights = list[Float[np.ndarray, "..."]]


def load_weights(path: Path, shapes: Sequence[tuple[int, ...]], kinds: Sequence[str] = ("dense",)) -> Weights:
    """The weights in a Keras `.weights.h5`, or in a legacy `.h5` of weights or of a whole model, as float32.

    `shapes` are those of a Sequential's variables, layer by layer: a Dense layer's kernel, then its bias. A
    `.weights.h5` keeps layers by their kind; `kinds` are those that are expected, in the order of `shapes`. Nothing is
    read before the declared shapes equal `shapes`, so it takes no more memory than the network. Raises `UsageError`
    where there is no such file or it holds another architecture, `DamagedFile` where it cannot be read or
    refers elsewhere.
    """
    import h5py

    if not path.is_file():
        raise UsageError(f"The weights file {path} does not exist.")
    try:
        with h5py.File(path, "r") as file:
            # A few more than needed, for the message: a hostile file may list millions.
            found = list(itertools.islice(_variables(file, kinds, path), len(shapes) + 16))
            declared = [tuple(dataset.shape) for dataset in found]
            if declared != [tuple(shape) for shape in shapes]:
                raise UsageError(
                    f"The weights in {path} have the shapes {_listed(declared)}, "
                    f"but the network needs {_listed(shapes)}."
                )
            with np.errstate(over="ignore"):
                weights = [np.asarray(dataset[()], np.float32) for dataset in found]
    except OSError as error:
        raise DamagedFile(f"The weights file {path} cannot be read: {error}.") from error
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise DamagedFile(f"The weights file {path} is damaged: {error}.") from error
    if not all(np.isfinite(weight).all() for weight in weights):
        raise DamagedFile(f"The weights file {path} holds values that are not finite.")
    return weights


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes) or "no variables"


def _variables(file: "h5py.File", kinds: Sequence[str], path: Path) -> Iterator["h5py.Dataset"]:
    if _has(file, "model_weights"):
        yield from _legacy(_group(file, "model_weights", path), path)
    elif "layer_names" in file.attrs:
        yield from _legacy(file, path)
    else:
        yield from _modern(file, kinds, path)


def _modern(file: "h5py.File", kinds: Sequence[str], path: Path) -> Iterator["h5py.Dataset"]:
    """Keras 3: `layers/<kind>[_<n>]/vars/<n>`. The older name of `layers` is that of the last Keras 2."""
    names = [name for name in ("layers", "_layer_checkpoint_dependencies") if _has(file, name)]
    if not names:
        raise DamagedFile(f"The weights file {path} is not laid out as Keras does it.")
    layers = _group(file, names[0], path)
    found: list[tuple[int, int, h5py.Group]] = []
    for name in _keys(layers, path):
        layer = _group(layers, name, path)
        if not _has(layer, "vars") or len(_group(layer, "vars", path)) == 0:
            continue
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name, re.DOTALL).groups(default="0")  # type: ignore[union-attr]
        if kind not in kinds:
            raise UsageError(
                f"{path} holds a layer {name[:80]!r}; only weights of {' and '.join(kinds)} layers are read."
            )
        found.append((kinds.index(kind), int(number), _group(layer, "vars", path)))
    for _, _, variables in sorted(found, key=lambda layer: layer[:2]):
        for key in sorted(_keys(variables, path), key=int):
            yield _dataset(variables, key, path)


def _legacy(group: "h5py.Group", path: Path) -> Iterator["h5py.Dataset"]:
    """Keras 1 and 2: attributes name the layers, and in each layer's group its weights, in order."""
    for name in _names(group, "layer_names", path):
        layer = _walk(group, name, path)
        for weight in _names(layer, "weight_names", path):
            *folders, last = weight.split("/")
            yield _dataset(_walk(layer, "/".join(folders), path), last, path)


def _keys(group: "h5py.Group", path: Path) -> list[str]:
    if len(group) > MOST_NAMES:
        raise DamagedFile(f"The weights file {path} lists {len(group)} names at {group.name}; {MOST_NAMES} are read.")
    return list(group)


def _names(group: "h5py.Group", attribute: str, path: Path) -> list[str]:
    """A list of names in an attribute, looked at before it is read: an attribute may declare any size."""
    import h5py

    declared = group.attrs.get_id(attribute)
    if math.prod(declared.shape) == 0:
        return []
    if len(declared.shape) != 1 or declared.shape[0] > MOST_NAMES:
        raise DamagedFile(f"The weights file {path} has an attribute {attribute} of shape {declared.shape}.")
    is_text = h5py.check_string_dtype(declared.dtype) is not None
    if not is_text or declared.dtype.itemsize > _LONGEST_NAME_BYTES:
        raise DamagedFile(f"The weights file {path} has an attribute {attribute} of type {declared.dtype}.")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _walk(group: "h5py.Group", names: str, path: Path) -> "h5py.Group":
    for name in names.split("/"):
        if name:
            group = _group(group, name, path)
    return group


def _has(group: "h5py.Group", name: str) -> bool:
    """Whether the name is there. `in` would go where a link leads to find out."""
    return group.get(name, getlink=True) is not None


def _group(group: "h5py.Group", name: str, path: Path) -> "h5py.Group":
    import h5py

    child = _child(group, name, path)
    if not isinstance(child, h5py.Group):
        raise DamagedFile(f"The weights file {path} has no group at {group.name}/{name}.")
    return child


def _child(group: "h5py.Group", name: str, path: Path) -> Any:
    """One level down, and only by a hard link: soft and external ones lead wherever the file's author likes."""
    import h5py

    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise DamagedFile(f"The weights file {path} has a link at {group.name}/{name}; links are not followed.")
    return group[name]


def _dataset(group: "h5py.Group", name: str, path: Path) -> "h5py.Dataset":
    """A plain array of floats, as Keras writes them: here and not elsewhere, and not packed, so as large as it says."""
    import h5py

    dataset = _child(group, name, path)
    where = f"{group.name}/{name}"
    if not isinstance(dataset, h5py.Dataset):
        raise DamagedFile(f"The weights file {path} holds no array at {where}.")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise DamagedFile(f"The weights file {path} holds values of type {dataset.dtype} at {where}, not floats.")
    if dataset.is_virtual or dataset.external is not None:
        raise DamagedFile(f"The weights file {path} keeps {where} in another file, which is not followed.")
    if dataset.chunks is not None:
        raise DamagedFile(f"The weights file {path} keeps {where} in pieces, as Keras never does.")
    return dataset
