"""The notebook in `examples/` runs as it stands in a fresh kernel, and shows what it says."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parent.parent / "examples" / "first_steps.ipynb"

Outputs = list[Any]
"""What Jupyter shows below a cell."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outputs]:
    """From the last line of each cell of code to its outputs."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder, home = tmp_path_factory.mktemp("notebook"), tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        # The kernel is the one of this interpreter, and nothing lands in the user's folders.
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(home / name))
        # No screen; and where the last is set, a kernel hides what libraries in C write.
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR", "PYTEST_CURRENT_TEST"):
            patch.delenv(name, raising=False)
        NotebookClient(
            notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    return {cell.source.splitlines()[-1]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def value(outputs: Outputs, kind: str) -> str:
    """The value of a cell, as Jupyter shows it in `kind`."""
    return str(next(output.data[kind] for output in outputs if output.output_type == "execute_result"))


def printed(outputs: Outputs, stream: str = "stdout") -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == stream)


def test_training_shows_one_line_that_is_renewed_and_then_the_run(shown: dict[str, Outputs]) -> None:
    told = printed(shown["run"])
    assert "\rtraining " in told
    *_, last = told.strip().split("\n")
    score = re.search(r"CartPole-v1 .*interquartile mean ([\d.]+) \(95 % interval .*100 unseen episodes each", last)
    assert score is not None
    assert float(score[1]) > 200
    table = value(shown["run"], "text/html")
    assert table.startswith("<table>")
    assert score[1] in table
    assert "data:image/png;base64," in table


def test_the_learning_curve_and_a_video_are_shown(shown: dict[str, Outputs]) -> None:
    with Image.open(io.BytesIO(base64.b64decode(value(shown["run.plot()"], "image/png")))) as curve:
        assert min(curve.size) > 300
    film = re.search(r'<video [^>]*src="data:video/mp4;base64,([^"]+)"', value(shown["run.film()"], "text/html"))
    assert film is not None
    assert base64.b64decode(film[1])[4:8] == b"ftyp"


def test_the_history_and_the_agent_are_told_in_text(shown: dict[str, Outputs]) -> None:
    history = printed(next(outputs for line, outputs in shown.items() if "loss of member 0" in line))
    assert re.search(r"loss of member 0: \[[\d.]+ ", history)
    assert value(shown["agent"], "text/plain").startswith("Policy of member ")
    score = re.search(r"score: ([\d.]+)$", printed(shown['print("score:", score)']))
    assert score is not None
    assert float(score[1]) > 100


def test_no_cell_writes_on_stderr(shown: dict[str, Outputs]) -> None:
    assert {line: printed(outputs, "stderr") for line, outputs in shown.items()} == dict.fromkeys(shown, "")


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell.source for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
