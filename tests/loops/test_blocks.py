"""Members in blocks: they learn what they would all at once, and no block copies the tape."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes.training import device_loop, small_agent, small_network

from qdojo.envs.native.cartpole import CARTPOLE
from qdojo.loops.blocks import WHOLE, Blocks
from qdojo.loops.learning import Rhythm

MEMBERS, ENVS, CAPACITY = 6, 2, 40
