"""What all tests share: checked shapes and dtypes, and quick compilation. Not for fixtures of one file.

The import hook has to be installed before qdojo is first imported, and XLA reads its flags once, so both come first.
"""

import gc
import os
from importlib.metadata import version

from checking import share_contexts
from jaxtyping import install_import_hook

install_import_hook("qdojo", "checking.checked")
# Programs of tests are compiled more often than they are run; `XLA_FLAGS= pytest` compiles them as users have them.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# The older way to fuse compiles in half the time; later versions lack it, and refuse flags that they do not know.
OLD = version("jaxlib").startswith("0.10.")
os.environ.setdefault("XLA_FLAGS", QUICK + (" --xla_cpu_use_fusion_emitters=false" if OLD else ""))

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

if OLD:
    share_contexts()

# Two devices are there for the tests of shards. All other tests train on one.
jax.config.update("jax_num_cpu_devices", 2)

FAST = (
    *("bellman/test_losses.py", "bellman/test_returns.py", "bellman/test_targets.py", "tape/test_windows.py"),
    *("envs/test_describe.py", "runs/test_metrics.py", "test_config.py", "test_config_files.py"),
    *("test_config_words.py", "test_noise.py", "test_presets.py", "test_progress.py", "test_selection.py"),
    *("test_settings_page.py", "test_statistics.py", "test_wording.py"),
)
"""Folders and files whose tests are marked `fast`."""
SLOW = (
    *("test_examples.py", "probes/", "test_resume.py", "test_spaces_in_training.py", "loops/test_tape_on_host.py"),
    *("test_notebook.py", "test_adding.py", "web/", "training/test_large_tapes.py", "test_old_runs.py"),
    "envs/test_atari_training.py",
)
"""Folders and files whose tests are marked `slow`, the longest first: they train until something is learned, kill
runs and continue them, or drive a browser."""
LONG = ("loops/", "envs/", "agents/", "tape/")
"""What takes longest among the rest."""


def place_in(order: tuple[str, ...], file: str) -> int:
    return next((place for place, name in enumerate(order) if file.startswith(name)), len(order))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the fast and the slow tests, and begin with what takes long, so that no worker is left alone at the end.

    Slow tests are left out unless tests are chosen: by a path, `-m`, `-k` or `--last-failed`.
    """
    root = Path(__file__).parent
    of = {item: item.path.relative_to(root).as_posix() for item in items}
    for item, file in of.items():
        if file.startswith(FAST):
            item.add_marker(pytest.mark.fast)
        if file.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (place_in(SLOW, of[item]), place_in(LONG, of[item])))
    if not any(config.getoption(name, None) for name in ("file_or_dir", "markexpr", "keyword", "lf")):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


# Tracing makes many small objects that live long, over which Python would go again and again to find none to free.
gc.set_threshold(50_000, 20, 20)

# A first call compiles, which no deadline survives; and the suite leaves nothing in the working directory.
settings.register_profile("suite", deadline=None, database=None)
settings.load_profile("suite")


WORTH_KEEPING_SECONDS = 0.1
"""Programs that compile faster are not cached: writing them would take a quarter of their time."""


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs that many tests compile are compiled once a session, and nothing lands in the user's cache."""
    folder = str(tmp_path_factory.mktemp("xla"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING_SECONDS)
    # For the processes that tests start. Not for other workers: JAX does not write an entry all at once.
    os.environ.update(
        JAX_COMPILATION_CACHE_DIR=folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=str(WORTH_KEEPING_SECONDS)
    )


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """Runs of equal settings and objects are traced and compiled once a module, and resumes of them once more.

    For files that train the same again and again. Not where a test replaces something that is traced: the programs
    would be those from before.
    """
    import qdojo.api
    from qdojo.loops.state import Programs

    build, made = qdojo.api.build, {}

    def shared(config: Any, *objects: Any, **options: Any) -> Any:
        key = config.model_dump_json(), tuple(id(each) for each in objects), repr(options)
        programs, _ = made.setdefault(key, (Programs(), objects))  # with the objects, or another might get an id
        with pytest.MonkeyPatch.context() as patch:
            for loop in ("device", "host"):
                patch.setattr(f"qdojo.loops.{loop}.Programs", lambda: programs)
            return build(config, *objects, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qdojo.api.build", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_core() -> Iterator[None]:
    """Members are not sharded unasked, whatever the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qdojo.processor.cores", lambda: 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_pictures() -> Iterator[None]:
    """Runs end without half a second of drawing. `test_plots.py` draws, and ends a run with its picture."""

    def draw(metrics: Path, title: str, path: Path) -> None:
        path.write_bytes(b"a picture")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qdojo.training.observers.curve.curve_png", draw)
        yield


@pytest.fixture
def strict_promotion() -> Iterator[None]:
    """No dtype and no rank is promoted unasked. Not for all tests: Optax and Keras promote inside."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
