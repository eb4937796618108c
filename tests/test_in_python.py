"""What a person sees and keeps of a run in Python: its text, its history, its film, and an agent in one file."""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path
from subprocess import run as run_process

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import qdojo
from qdojo.errors import DamagedFile, QdojoError, UsageError

BAR = "</table><script>alert(1)</script>"


@pytest.fixture(scope="module")
def told_and_finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, qdojo.Run]:
    """Three members, one evaluation before the last; and what was said meanwhile."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        run = qdojo.train(
            "CartPole-v1",
            root=tmp_path_factory.mktemp("runs"),
            seeds=3,
            steps=600,
            warmup_steps=64,
            hidden=[8],
            eval_every_steps=300,
            eval_episodes=2,
            final_eval_episodes=4,
        )
    return told.getvalue(), run


@pytest.fixture
def finished(told_and_finished: tuple[str, qdojo.Run]) -> qdojo.Run:
    return told_and_finished[1]


OBSERVATIONS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


def test_training_says_how_far_it_is_and_what_came_of_it(told_and_finished: tuple[str, qdojo.Run]) -> None:
    told, run = told_and_finished
    lines = told.splitlines()
    assert lines[0] == f"CartPole-v1, preset default, 3 members, device loop: {run.path}"
    assert "training ..." in lines
    assert lines[-1].startswith("CartPole-v1 solved by 0 of 3 members: greedy means ")
    assert "\x1b" not in told


def test_a_run_says_where_it_stands(finished: qdojo.Run) -> None:
    told = repr(finished)
    assert finished.directory.name in told
    assert "CartPole-v1, preset default, 3 members" in told
    assert "finished after" in told
    assert "4 unseen episodes each" in told
    assert str(finished.path) in told
    shown = finished._repr_html_()
    assert shown.startswith("<table>")
    assert "data:image/png;base64," in shown


def test_texts_of_files_stay_text_in_a_notebook(finished: qdojo.Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.path, copy)
    result = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(result | {"error": BAR + "\x1b[2J"}))
    run = qdojo.Run(dataclasses.replace(finished.directory, path=copy))
    assert "<script>" not in run._repr_html_()
    assert "\x1b" not in repr(run)
    (copy / "result.json").write_text("{")
    (copy / "config.toml").write_bytes(b"\xff")
    assert "config.toml cannot be read" in repr(run), "looking at a damaged run does not fail"


def test_scores_and_agents_say_what_they_are(finished: qdojo.Run) -> None:
    scores = finished.evaluate(3)
    assert repr(scores).startswith("Evaluation: greedy means ")
    assert "interquartile mean" in repr(scores)
    assert repr(scores).endswith("3 unseen episodes each")
    assert repr(finished.policy(1)) == (
        "Policy of member 1, trained on CartPole-v1 with preset default: observations 4, actions 2, "
        f"{4 * 8 + 3 * 8 + 8 * 2 + 2} weights"
    )


def test_the_history_holds_every_row_in_long_form(finished: qdojo.Run) -> None:
    history = finished.history
    assert len({len(column) for column in history}) == 1
    assert (np.diff(history.step) >= 0).all()
    assert set(history.of("evaluation_return").member) == {0, 1, 2}
    assert set(history.of("steps_per_second").member) == {-1}
    returns, lengths = history.of("episode_return", 1), history.of("episode_length", 1)
    np.testing.assert_array_equal(returns.value, lengths.value, "a step of CartPole gives 1")
    assert np.cumsum(lengths.value)[-1] <= 600
    assert "episode_return" in repr(history)
    with pytest.raises(UsageError, match="no metric 'los' in this run; it has episode_length,"):
        history.of("los")


def test_the_plot_is_a_figure_that_a_notebook_shows(finished: qdojo.Run, tmp_path: Path) -> None:
    figure = finished.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert figure.axes[0].get_title() == "CartPole-v1, default"
    figure.savefig(tmp_path / "curve.pdf")
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")


def test_a_film_is_shown_by_a_notebook(finished: qdojo.Run, tmp_path: Path) -> None:
    film = finished.film(2, path=tmp_path / "play.gif")
    assert len(film.returns) == 2
    assert film.path.read_bytes().startswith(b"GIF8")
    assert 'src="data:image/gif;base64,' in film._repr_html_()


@pytest.fixture(scope="module")
def agent_file(told_and_finished: tuple[str, qdojo.Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "agent.safetensors"
    told_and_finished[1].policy(2).save(path)
    return path


def test_an_agent_plays_from_its_file_alone(finished: qdojo.Run, agent_file: Path) -> None:
    """In another process, where the run is nowhere near, and no environment may be made."""
    program = (
        "import sys, json, numpy, gymnasium, qdojo\n"
        "gymnasium.make = None\n"
        "agent = qdojo.load(sys.argv[1])\n"
        "seen = numpy.array(json.loads(sys.argv[2]), numpy.float32)\n"
        "print(json.dumps([agent.q_values(one).tolist() for one in seen] + [[agent.act(one) for one in seen]]))"
    )
    arguments = [sys.executable, "-c", program, str(agent_file), json.dumps(OBSERVATIONS.tolist())]
    done = run_process(arguments, capture_output=True, text=True, check=True, cwd=agent_file.parent)
    *values, actions = json.loads(done.stdout)
    ours = finished.policy(2)
    np.testing.assert_array_equal(np.array(values, np.float32), [ours.q_values(one) for one in OBSERVATIONS])
    assert actions == [ours.act(one) for one in OBSERVATIONS]


def test_the_file_can_be_read_without_qdojo(agent_file: Path) -> None:
    with safe_open(agent_file, framework="np") as file:
        entry = json.loads(file.metadata()["qdojo"])
        assert sum(file.get_tensor(name).size for name in file.keys()) == 4 * 8 + 3 * 8 + 8 * 2 + 2  # noqa: SIM118
    assert (entry["member"], entry["config"]["env"]) == (2, "CartPole-v1")


def test_what_is_no_file_of_an_agent_is_one_sentence(finished: qdojo.Run, agent_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.safetensors, not in '\.pt'"):
        finished.policy().save(tmp_path / "agent.pt")
    with pytest.raises(UsageError, match=r"There is no file .*none\.safetensors"):
        qdojo.load(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="a file holds one agent"):
        qdojo.load(agent_file, member=1)
    with pytest.raises(QdojoError, match="cannot be written"):
        finished.policy().save(tmp_path / "nowhere" / "agent.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, other)
    with pytest.raises(DamagedFile, match="not an agent's file"):
        qdojo.load(other)
    with safe_open(agent_file, framework="np") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for change, error in (
        ({"format": 99}, "format 1"),
        ({"config": {"env": "CartPole-v1", "hidden": "?"}}, "hidden"),
        ({"player": {}}, "description of the player"),
    ):
        save_file(arrays, other, {"qdojo": json.dumps(json.loads(metadata["qdojo"]) | change)})
        with pytest.raises(QdojoError, match=error):
            qdojo.load(other)
    other.write_bytes(agent_file.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match="not an agent's file"):
        qdojo.load(other)
