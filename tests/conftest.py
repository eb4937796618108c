"""What all tests share: checked shapes and dtypes, and a place for compiled programs. Not for fixtures of one file.

The import hook has to be installed before qdojo is first imported, so it is the first thing here.
"""

from jaxtyping import install_import_hook

install_import_hook("qdojo", "beartype.beartype")

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

# Helpers that several tests use (`probes/environments.py`) are found from here.
sys.path.insert(0, str(Path(__file__).parent))

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs that many tests compile are compiled once a session, and nothing lands in the user's cache."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
