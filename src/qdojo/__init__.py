"""Deep Q-learning agents for any Gymnasium environment with discrete actions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdojo.api import Run as Run
    from qdojo.api import evaluate as evaluate
    from qdojo.api import load as load
    from qdojo.api import resume as resume
    from qdojo.config import Config as Config
    from qdojo.signature import train as train

__version__ = "0.1.0"

_HOMES = {
    "Config": "qdojo.config",
    "Run": "qdojo.api",
    "evaluate": "qdojo.api",
    "load": "qdojo.api",
    "resume": "qdojo.api",
    "train": "qdojo.api",
}
__all__ = ["Config", "Run", "evaluate", "load", "resume", "train"]


if not TYPE_CHECKING:  # type checkers would take any name for one that exists

    def __getattr__(name: str) -> Any:
        """Import a public name on first use, so that `import qdojo` alone is fast."""
        if name not in _HOMES:
            raise AttributeError(f"module 'qdojo' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)
