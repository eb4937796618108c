"""The scripts in `examples/` run as they stand, and do what they say."""

import os
import re
import sys
from pathlib import Path
from subprocess import run as run_process

EXAMPLES = Path(__file__).parent.parent / "examples"


def output(name: str, folder: Path, **variables: str) -> str:
    """What a script prints when it is run in `folder`."""
    environment = os.environ | variables
    done = run_process([sys.executable, EXAMPLES / name], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_environment_of_ones_own_with_a_mask(tmp_path: Path) -> None:
    told = output("own_environment.py", tmp_path)
    assert re.search(r"return 0\.8\d: left, left, left, pick up(, right){8}$", told), "the shortest way, with the key"


def test_a_keras_model_of_ones_own(tmp_path: Path) -> None:
    told = output("own_keras_model.py", tmp_path)
    score = re.search(r"greedy mean ([\d.]+)", told)
    assert score is not None
    assert float(score[1]) > 100
    for made in ("own_keras_model.keras", "own_keras_model.mp4"):
        assert (tmp_path / made).stat().st_size > 1000


def test_a_study_over_seeds(tmp_path: Path) -> None:
    told = output("study.py", tmp_path)
    scores = re.findall(r"interquartile mean ([\d.]+), 95 % interval ([\d.]+) to ([\d.]+), 5 seeds", told)
    assert len(scores) == 2
    for middle, low, high in scores:
        assert 50 < float(low) <= float(middle) <= float(high)
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_each_has_a_test() -> None:
    tested = re.findall(r'output\("(.*?)"', Path(__file__).read_text(encoding="utf-8"))
    assert sorted(tested) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_the_readmes_lines_of_python_run_as_they_stand(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 1
    assert len(blocks[0].strip().splitlines()) <= 12
    script = tmp_path / "readme.py"
    script.write_text(blocks[0], encoding="utf-8")
    told = output(str(script), tmp_path, XLA_FLAGS="")  # compiled as users have it: it trains for long
    middle = re.search(r"interquartile mean ([\d.]+)", told)
    assert middle is not None
    assert float(middle[1]) > 400
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "agent.safetensors").stat().st_size > 10_000
