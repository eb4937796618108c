"""What tests against DeepMind's rlax share."""

import importlib
import warnings
from typing import Any

import pytest


@pytest.fixture(scope="module")
def rlax() -> Any:
    # Importing it warns of what its own dependencies will lose.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return importlib.import_module("rlax")
        except (ImportError, AttributeError) as error:
            pytest.skip(f"rlax does not import with this JAX: {error}")
