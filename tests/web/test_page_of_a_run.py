"""The page of a trained run: its score, its time line, its films, and the command that trains it again."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from web.made import data_of, network

import qdojo
from qdojo.agent_page import SNAPSHOT_BYTES, command
from qdojo.config import make_config
from qdojo.errors import UsageError
from qdojo.export.forward import Form, described
from qdojo.export.html import page
from qdojo.networks.keras import import_keras
from qdojo.recorded import EPISODES, cells, film

keras = import_keras()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> qdojo.Run:
    folder = tmp_path_factory.mktemp("runs")
    return qdojo.train("CartPole-v1", steps=3_000, hidden=(16,), root=folder, progress=False)


def test_the_page_of_a_run_scores_as_evaluate_does(run: qdojo.Run, opened: Any, tmp_path: Path) -> None:
    path = run.page(tmp_path / "agent.html")
    tab = opened(path.read_bytes())
    returns = run.evaluate(100).returns[0]
    low, high = (returns.mean() + side * 3 * returns.std() / 10 for side in (-1, 1))
    tab.locator("#measure").click()
    tab.wait_for_timeout(50)
    tab.locator("#measure:enabled").wait_for()
    found = float(tab.locator("#measured").inner_text().split(" ")[0])
    assert low - 1 <= found <= high + 1
    data = json.loads(re.search(rb'id="data">(.*?)</script>', path.read_bytes())[1])
    assert data["score"]["low"] <= returns.mean() <= data["score"]["high"]
    assert data["snapshots"][0]["step"] == 0
    assert data["command"] == "qdojo train CartPole-v1 --steps 3000 --hidden 16"


def test_a_page_needs_a_name_and_a_folder(run: qdojo.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        run.page(tmp_path / "agent.htm")
    with pytest.raises(UsageError, match="does not exist"):
        run.page(tmp_path / "no" / "agent.html")


def test_the_page_of_the_default_is_small() -> None:
    """CartPole's default network, with as much as a run's snapshots and curve may take."""

    floats = 4 * 64 + 64 * 64 + 64 * 2 + 2 * 3 * 64 + 2
    curve = {"steps": list(range(10_000, 10_300, 2)), "values": [123.45] * 150}
    full = data_of(weights=base64.b64encode(bytes(4 * floats)).decode(), curve=curve, evaluations=curve)
    assert len(page(full | {"snapshots": [{"step": 1, "weights": "A" * SNAPSHOT_BYTES}]})) < 150_000
    assert network()[1].size < floats


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_a_film_holds_what_was_seen_and_thought(run: qdojo.Run, opened: Any) -> None:
    policy = run.policy()
    told = film(run, policy, "a test asks for it")
    scores = {episode["which"]: episode["score"] for episode in told["episodes"]}
    assert scores["worst"] <= scores["median"] <= scores["best"]
    for episode in told["episodes"]:
        seen, q = floats(episode["observations"]).reshape(-1, 4), floats(episode["q"]).reshape(-1, 2)
        assert len(seen) == len(q) == len(episode["steps"]) == episode["length"] <= 201
        for at in (0, len(q) // 2):
            np.testing.assert_allclose(q[at], policy.q_values(seen[at]), rtol=1e-4)
            assert episode["actions"][at] == [int(q[at].argmax())]
        # CartPole's return is the number of steps, and its last frame is after the last one.
        assert episode["steps"][-1] == episode["returns"][-1] == episode["score"]
    tab = opened(page(data_of(environment=None, network=None, weights="", film=told)))
    tab.locator("#scrub").focus()
    tab.keyboard.press("End")
    tab.wait_for_timeout(50)
    assert tab.locator("#status").inner_text().startswith(f"Episode over after {scores['best']:.0f} steps")
    assert EPISODES == 20


def test_observations_with_planes_are_drawn_as_cells() -> None:
    planes = np.zeros((7, 8, 6), bool)
    planes[1, 2, 0] = planes[3, 4, 5] = True
    picture = cells(planes)
    assert picture is not None
    assert picture.shape == (7, 8, 3)
    background = picture[0, 0]
    changed = np.argwhere((picture != background).any(axis=-1)).tolist()
    assert changed == [[1, 2], [3, 4]]
    assert cells(np.zeros(7)) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        ({"steps": 6_000, "seed": 3}, " --seed 3 --steps 6000"),
        ({"learning_rate": [1e-3, 1e-4], "seeds": 2}, " --seeds 2 --learning-rate 0.001,0.0001"),
        (
            {"preset": "rainbow", "hidden": (32,), "eval_every_steps": None},
            " --preset rainbow --hidden 32 --eval-every-steps none",
        ),
        ({"double": False, "prioritized": True}, " --prioritized --no-double"),
    ],
)
def test_the_command_has_only_what_was_chosen(settings: dict[str, Any], expected: str) -> None:
    assert command(make_config("CartPole-v1", **settings)) == f"qdojo train CartPole-v1{expected}"


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([keras.layers.Dense(3), keras.layers.BatchNormalization(name="batch"), keras.layers.Dense(2)], "batch"),
        ([keras.layers.Dense(2, activation="gelu", name="curved")], "gelu"),
    ],
)
def test_what_the_page_cannot_compute_is_named(layers: list[Any], named: str) -> None:
    model = keras.Sequential([keras.layers.Input((4,)), *layers])
    with pytest.raises(UsageError, match=named):
        described(None, Form("q", (4,), (4,), 1, 2, 1), model)
