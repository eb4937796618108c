"""Who may import whom, and what may never be called, read from the source. Not for what imports cost: see `cli/`."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qdojo

ROOT = Path(qdojo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

BASE = {"errors", "ids", "types", "noise", "observations"}
PARTS = {"bellman", "networks", "tape", "envs"}
ALLOWED = {
    "errors": set(),
    "ids": set(),
    "noise": set(),
    "types": set(),
    "observations": {"types"},
    "config": {"errors", "ids"},
    "processor": {"config", "errors"},
    "snapshot": {"errors"},
    "statistics": {"errors"},
    "wording": set(),
    "bellman": set(),
    "networks": BASE,
    "tape": BASE | {"bellman"},
    "envs": BASE,
    "agents": BASE | PARTS - {"envs"},
    "loops": BASE | PARTS - {"bellman"},
    "runs": {"errors"},
    "plots": {"errors", "runs", "statistics", "wording"},
    "export": BASE | {"networks", "runs"},
    "dataset": BASE | {"envs", "tape", "runs", "snapshot"},
    "build": BASE
    | PARTS
    | {"agents", "loops", "config", "dataset", "export", "processor", "runs", "snapshot", "wording"},
}
"""Package or module -> what of ours it may import. The rest is downstream of `build`, and may import all but `cli`."""


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports would escape this test"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def home(path: Path) -> str:
    """The part of the package that a file is of: its folder, or itself."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def ours(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(parsed(path)) if name.startswith("qdojo.")}
    return names - {home(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_data_flows_in_one_direction(path: Path) -> None:
    part = home(path)
    if part in ALLOWED:
        assert ours(path) <= ALLOWED[part], f"{part} may import {sorted(ALLOWED[part]) or 'nothing of ours'}"
    elif part not in ("cli", "__main__"):
        assert "cli" not in ours(path)


def test_the_table_names_what_there_is() -> None:
    there = {home(path) for path in FILES}
    assert set(ALLOWED) <= there


def test_loops_see_no_concrete_agent_and_agents_no_environment() -> None:
    for path in FILES:
        if home(path) == "loops":
            assert "agents" not in ours(path)


def test_the_mathematics_imports_only_jax() -> None:
    for path in (ROOT / "bellman").glob("*.py"):
        roots = {name.split(".")[0] for name in imports(parsed(path))}
        assert roots <= {"functools", "jax", "jaxtyping", "typing"}


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    tree = parsed(path)
    assert not {name.split(".")[0] for name in imports(tree)} & FORBIDDEN_MODULES
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name):
                assert called.id not in FORBIDDEN_CALLS, f"{called.id}() at line {node.lineno}"
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            allow = keywords.get("allow_pickle")
            assert allow is None or (isinstance(allow, ast.Constant) and allow.value is False)
            unsafe = keywords.get("safe_mode")
            assert unsafe is None or (isinstance(unsafe, ast.Constant) and unsafe.value is True)


def test_the_config_is_read_without_jax_or_keras() -> None:
    """In a fresh process: settings, presets and their checks cost no heavy import, and neither does the package."""
    code = (
        "import sys, qdojo, qdojo.config as c; c.make_config('CartPole-v1'); c.preset_tables();"
        "print([m for m in ('jax', 'keras', 'equinox', 'optax', 'gymnasium', 'matplotlib') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"


def test_building_a_dense_agent_imports_no_keras() -> None:
    code = "import sys, qdojo.build.training, qdojo.api; print('keras' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "False"


def test_every_public_name_is_there() -> None:
    for name in qdojo.__all__:
        assert getattr(qdojo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = qdojo.trian


def test_plain_dqn_is_read_in_few_lines() -> None:
    """The path from `train` to the gradient that `docs/design.md` names."""
    page = (Path(__file__).parent.parent / "docs" / "design.md").read_text(encoding="utf-8")
    section = page.partition("## From `train` to the gradient")[2].partition("\n## ")[0]
    files = re.findall(r"^\d\. `([\w/]+\.py)`", section, re.MULTILINE)
    assert len(files) == 7
    assert sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files) <= 1_500
