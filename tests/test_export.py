"""Trained networks as Keras files, and weights read back: the same greedy actions, and nothing hostile gets in."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdojo.errors import DamagedFile, QdojoError, UsageError
from qdojo.export.keras import export, keras_model
from qdojo.networks.inputs import Design
from qdojo.networks.keras import (
    import_keras,
    keras_network,
    keras_settings,
    params_of,
    tutorial_network,
)
from qdojo.networks.keras_dense import mlp_as_keras, read_weights
from qdojo.networks.mlp import MLP, mlp
from qdojo.networks.weights import load_weights

# Keras' own, whenever it saves under NumPy 2; `export` must not let it out (`test_export_is_silent`).
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

keras = import_keras()
SHAPES = [(4, 24), (24,), (24, 24), (24,), (24, 2), (2,)]


def tutorial(seed: int = 0) -> Any:
    """The tutorial's network, with weights that are not zero anywhere."""
    model, draw = tutorial_network((4,), 2), np.random.default_rng(seed)
    model.set_weights([draw.normal(size=shape).astype(np.float32) for shape in SHAPES])
    return model


def weights_of(model: Any) -> list[np.ndarray]:
    return [np.asarray(variable.value) for variable in model.variables]


def legacy(path: Path, weights: list[np.ndarray], full_model: bool = True, names: bytes = b"dense") -> Path:
    """What Keras 2.x wrote for `model.save("cartpole_weight.h5")`, or with `full_model` off for `save_weights`."""
    with h5py.File(path, "w") as file:
        group = file
        if full_model:
            file.attrs["keras_version"], file.attrs["backend"] = b"2.4.0", b"tensorflow"
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {}}).encode()
            file.attrs["training_config"] = json.dumps({"loss": "mse", "optimizer_config": {}}).encode()
            optimizer = file.create_group("optimizer_weights")
            optimizer.create_dataset("training/Adam/iter:0", data=np.int64(1))
            group = file.create_group("model_weights")
        group.attrs["keras_version"], group.attrs["backend"] = b"2.4.0", b"tensorflow"
        layers = [names if i == 0 else names + b"_%d" % i for i in range(len(weights) // 2)]
        group.attrs["layer_names"] = layers
        for i, layer in enumerate(layers):
            inner = group.create_group(layer.decode())
            inner.attrs["weight_names"] = [layer + b"/kernel:0", layer + b"/bias:0"]
            inner.create_dataset(f"{layer.decode()}/kernel:0", data=weights[2 * i])
            inner.create_dataset(f"{layer.decode()}/bias:0", data=weights[2 * i + 1])
    return path


def keras_saved(path: Path) -> Path:
    """Keras' own `.weights.h5` of the tutorial's model, compiled and fitted once, so with an optimizer in it."""
    model = tutorial()
    with keras_settings():
        model.compile(loss="mse", optimizer=keras.optimizers.Adam(0.0))
        model.optimizer.build(model.trainable_variables)
    model.save_weights(path)
    return path


# Taking an agent home. ------------------------------------------------------------------------------------------------

NETWORKS: dict[str, tuple[Any, Any]] = {
    "mlp": (mlp(Design((4,), 2, (32, 16), layer_norm=True)), None),
    "tutorial": (keras_network(lambda: tutorial_network((4,), 2), (4,), 2), lambda: tutorial_network((4,), 2)),
}


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("name", NETWORKS)
def test_greedy_actions_survive_the_export(name: str, suffix: str, tmp_path: Path) -> None:
    network, source = NETWORKS[name]
    params = network.init(jax.random.key(0))
    path = tmp_path / f"에이전트{suffix}"
    export(keras_model(params, (4,), source), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    if suffix == ".keras":
        model = keras.saving.load_model(path)
    else:
        model = keras_model(network.init(jax.random.key(1)), (4,), source)
        model.load_weights(path)
    observations = jnp.asarray(np.random.default_rng(0).normal(size=(10_000, 4)), jnp.float32)
    expected = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(params, observations)
    with keras_settings():
        found = np.asarray(model(observations))
    np.testing.assert_array_equal(found.argmax(axis=1), np.asarray(expected).argmax(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_export_is_silent(tmp_path: Path) -> None:
    export(tutorial(), tmp_path / "agent.keras")
    export(tutorial(), tmp_path / "agent.weights.h5")


def test_an_export_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "agent.weights.h5"
    export(tutorial(0), path)
    export(tutorial(1), path)
    for found, expected in zip(load_weights(path, SHAPES), weights_of(tutorial(1)), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["agent.h5", "agent.onnx", "agent"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.keras or \.weights\.h5"):
        export(tutorial(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder"):
        export(tutorial(), tmp_path / "nowhere" / "agent.keras")


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.weights.h5"
    export(tutorial(0), path)
    before = path.read_bytes()

    def fail(self: Any, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = tutorial(1)
    monkeypatch.setattr(type(model), "save_weights", fail)
    with pytest.raises(QdojoError, match="No space left"):
        export(model, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_keras_network_needs_its_model() -> None:
    with pytest.raises(UsageError, match="pass the model"):
        keras_model(params_of(tutorial()), (4,))


# Reading weights. -----------------------------------------------------------------------------------------------------

GOOD: dict[str, Callable[[Path], Path]] = {
    "Keras 3 weights": lambda folder: keras_saved(folder / "a.weights.h5"),
    "Keras 2 model": lambda folder: legacy(folder / "a.h5", weights_of(tutorial())),
    "Keras 2 weights": lambda folder: legacy(folder / "a.h5", weights_of(tutorial()), full_model=False),
    "Keras 2 model, later layer names": lambda folder: legacy(folder / "a.h5", weights_of(tutorial()), names=b"d_9"),
}


@pytest.mark.parametrize("name", GOOD)
def test_weights_are_read(name: str, tmp_path: Path) -> None:
    found = load_weights(GOOD[name](tmp_path), SHAPES)
    for weight, expected in zip(found, weights_of(tutorial()), strict=True):
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_legacy_file_that_keras_wrote_itself(tmp_path: Path) -> None:
    model = tutorial()
    with keras_settings():
        model.compile(loss="mse", optimizer=keras.optimizers.Adam(0.001))
        model.optimizer.build(model.trainable_variables)
        model.save(tmp_path / "cartpole_weight.h5")
    for weight, expected in zip(load_weights(tmp_path / "cartpole_weight.h5", SHAPES), weights_of(model), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_layers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    shapes = [shape for i in range(12) for shape in ((3, 3), (3,))]
    model = keras.Sequential([keras.layers.Input((3,)), *(keras.layers.Dense(3) for _ in range(12))])
    model.set_weights([np.full(shape, i, np.float32) for i, shape in enumerate(shapes)])
    model.save_weights(tmp_path / "a.weights.h5")
    assert [int(w.flat[0]) for w in load_weights(tmp_path / "a.weights.h5", shapes)] == list(range(24))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_dense_network_takes_its_own_export_back(layer_norm: bool, tmp_path: Path) -> None:
    params = MLP(Design((4,), 2, (16, 8), layer_norm, False), 1, jax.random.key(0))
    export(mlp_as_keras(params, (4,)), tmp_path / "a.weights.h5")
    found = read_weights(tmp_path / "a.weights.h5", mlp(Design((4,), 2, (16, 8), layer_norm)))
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_keras_network_takes_an_old_file(tmp_path: Path) -> None:
    path = legacy(tmp_path / "cartpole_weight.h5", weights_of(tutorial()))
    params = read_weights(path, NETWORKS["tutorial"][0])
    for found, expected in zip(params.trainable, weights_of(tutorial()), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_another_architecture_is_refused_with_both_shapes(tmp_path: Path) -> None:
    for make in GOOD.values():
        path = make(tmp_path)
        with pytest.raises(UsageError) as caught:
            load_weights(path, [(4, 8), (8,), (8, 2), (2,)])
        assert str(path) in str(caught.value)
        assert "(4, 24), (24,)" in str(caught.value)
        assert "(4, 8), (8,)" in str(caught.value)


def test_a_layer_too_many_is_refused(tmp_path: Path) -> None:
    for layers in ([(4, 2), (2,), (2,), (2,)], [(4, 2), (2,)]):
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2), keras.layers.LayerNormalization()])
        model.save_weights(tmp_path / "a.weights.h5")
        if len(layers) == 4:
            assert [w.shape for w in load_weights(tmp_path / "a.weights.h5", layers)] == layers
        else:
            with pytest.raises(UsageError, match="network needs"):
                load_weights(tmp_path / "a.weights.h5", layers)


def test_another_kind_of_layer_in_a_legacy_file(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", weights_of(tutorial()))
    with h5py.File(path, "r+") as file:
        file["model_weights/dense/dense/gamma:0"] = np.ones(24, np.float32)
    with pytest.raises(UsageError, match="gamma"):
        load_weights(path, SHAPES)


def test_no_file_and_no_hdf5(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_weights(tmp_path / "none.h5", SHAPES)
    with pytest.raises(UsageError, match="does not exist"):
        load_weights(tmp_path, SHAPES)
    (tmp_path / "text.h5").write_text("not weights")
    with pytest.raises(DamagedFile, match=r"text\.h5"):
        load_weights(tmp_path / "text.h5", SHAPES)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(DamagedFile, match=r"a\.keras"):
        load_weights(tmp_path / "a.keras", SHAPES)
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(DamagedFile, match="no weights"):
        load_weights(tmp_path / "empty.h5", SHAPES)


FIRST = {"modern": "layers/dense/vars/0", "legacy": "model_weights/dense/dense/kernel:0"}


def link(target: Any) -> Callable[[h5py.File, str, Path], None]:
    def spoil(file: h5py.File, name: str, folder: Path) -> None:
        del file[name]
        file[name] = target(folder)

    return spoil


def external_link(folder: Path) -> h5py.ExternalLink:
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones((4, 24), np.float32)
    return h5py.ExternalLink(str(folder / "other.h5"), "/secret")


def replaced(**how: Any) -> Callable[[h5py.File, str, Path], None]:
    def spoil(file: h5py.File, name: str, folder: Path) -> None:
        del file[name]
        file.create_dataset(name, **how)

    return spoil


def external_storage(file: h5py.File, name: str, folder: Path) -> None:
    (folder / "secret.bin").write_bytes(b"\0" * 384)
    del file[name]
    file.create_dataset(name, (4, 24), "<f4", external=[(str(folder / "secret.bin"), 0, 384)])


def virtual(file: h5py.File, name: str, folder: Path) -> None:
    layout = h5py.VirtualLayout((4, 24), "<f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "secret", (4, 24))
    del file[name]
    file.create_virtual_dataset(name, layout)


def linked_folder(file: h5py.File, name: str, folder: Path) -> None:
    parent = str(Path(name).parent.parent)
    file.move(parent, "aside")
    file[parent] = h5py.SoftLink("/aside")


def a_group(file: h5py.File, name: str, folder: Path) -> None:
    del file[name]
    file.create_group(name)


HOSTILE: dict[str, tuple[Callable[[h5py.File, str, Path], None], str]] = {
    "soft link": (link(lambda folder: h5py.SoftLink("/layers/dense_1/vars/1")), "link"),
    "external link": (link(external_link), "link"),
    "folder behind a link": (linked_folder, "link"),
    "external storage": (external_storage, "another file"),
    "virtual": (virtual, "another file"),
    "objects": (replaced(shape=(4, 24), dtype=h5py.string_dtype()), "not floats"),
    "integers": (replaced(shape=(4, 24), dtype="<i4"), "not floats"),
    "huge pieces": (replaced(shape=(4, 24), maxshape=(None, None), chunks=(4096, 4096), dtype="<f4"), "in chunks"),
    "not finite": (replaced(data=np.full((4, 24), np.nan, np.float32)), "finite"),
    "beyond float32": (replaced(data=np.full((4, 24), 1e300)), "finite"),
    "a group": (a_group, "no array"),
}


@pytest.mark.parametrize("layout", FIRST)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, layout: str, tmp_path: Path) -> None:
    path = GOOD["Keras 3 weights" if layout == "modern" else "Keras 2 model"](tmp_path)
    spoil, word = HOSTILE[name]
    with h5py.File(path, "r+") as file:
        spoil(file, FIRST[layout], tmp_path)
    with pytest.raises(DamagedFile, match=word) as caught:
        load_weights(path, SHAPES)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("layout", FIRST)
def test_a_declared_size_is_believed_before_it_is_read(layout: str, tmp_path: Path) -> None:
    path = GOOD["Keras 3 weights" if layout == "modern" else "Keras 2 model"](tmp_path)
    with h5py.File(path, "r+") as file:
        replaced(shape=(2**40, 2**20), dtype="<f8")(file, FIRST[layout], tmp_path)
    with pytest.raises(UsageError, match=str(2**40)):
        load_weights(path, SHAPES)


def test_layers_with_names_of_their_own_are_found_by_shape(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", weights_of(tutorial()))
    with h5py.File(path, "r+") as file:
        for old, new in (("dense", "input"), ("dense_1", "hidden"), ("dense_2", "actions")):
            file.move(f"model_weights/{old}", f"model_weights/{new}")
    for found, expected in zip(load_weights(path, SHAPES), weights_of(tutorial()), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_lists_of_names_are_bounded(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", weights_of(tutorial()))
    with h5py.File(path, "r+") as file:
        for i in range(100):
            file[f"model_weights/dense_{i + 3}"] = file["model_weights/dense"]
    with pytest.raises(UsageError, match="and 174 more"):
        load_weights(path, SHAPES)
    with h5py.File(path, "r+") as file:
        for i in range(990):
            file.create_group(f"model_weights/more_{i}")
    with pytest.raises(DamagedFile, match="1093 names"):
        load_weights(path, SHAPES)


def test_a_folder_in_itself_ends(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", weights_of(tutorial()))
    with h5py.File(path, "r+") as file:
        del file["model_weights/dense/dense"]
        file["model_weights/dense/dense"] = file["model_weights/dense"]
    with pytest.raises(UsageError, match="Dense"):
        load_weights(path, SHAPES)


@pytest.mark.parametrize("name", ["Keras 3 weights", "Keras 2 model"])
def test_mutated_files_raise_a_typed_error_or_load(name: str, tmp_path: Path) -> None:
    good = GOOD[name](tmp_path).read_bytes()
    draw, path = np.random.default_rng(0), tmp_path / "mutated.h5"
    refused = []
    for turn in range(150):
        changed = bytearray(good[: draw.integers(len(good))] if turn % 10 == 0 else good)
        for place in draw.integers(min(len(changed), 6000), size=draw.integers(1, 6)) if changed else ():
            changed[place] = draw.integers(256)
        path.write_bytes(changed)
        try:
            assert [w.shape for w in load_weights(path, SHAPES)] == SHAPES
        except (UsageError, DamagedFile) as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all("mutated.h5" in message for message in refused)
