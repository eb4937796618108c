"""What the command line may import before it has something to do, and how it behaves as a process."""

import subprocess
import sys

HEAVY = "('jax', 'jaxlib', 'keras', 'equinox', 'optax', 'matplotlib', 'tensorflow', 'torch')"


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_help_imports_nothing_heavy_and_not_even_the_config() -> None:
    ended = _python(
        "import sys\n"
        "from qdojo.cli import run\n"
        "assert run(['--help']) == 0\n"
        f"heavy = [name for name in (*{HEAVY}, 'pydantic', 'numpy', 'gymnasium') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    assert ended.returncode == 0, ended.stderr
    assert "train" in ended.stdout
    assert "doctor" in ended.stdout


def test_verbs_that_only_read_import_nothing_heavy(trained: dict) -> None:
    ended = _python(
        "import sys\n"
        "from qdojo.cli import run\n"
        f"path = {trained['run']!r}\n"
        "for line in (['runs', '--runs', path], ['show', path], ['presets'], ['train', '--help'],\n"
        "             ['train', 'CartPole-v1', '--discount', '2'], ['doctor', 'CartPole-v1']):\n"
        "    run(line)\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    assert ended.returncode == 0, ended.stderr


def test_the_module_is_the_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "qdojo", "presets", "nothing"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "preset" in ended.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "qdojo", "presets"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0
