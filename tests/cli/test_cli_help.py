"""What `qdojo train --help` says: the settings that matter first, all of them once, each in one plain line."""

import os
import re
import subprocess
import sys

import pytest

from qdojo.config import FIRST, GROUPS, Config


@pytest.fixture(scope="module")
def panels() -> dict[str, str]:
    """The text of each panel by its title, unwrapped."""
    command = [sys.executable, "-m", "qdojo", "train", "--help"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QDOJO_")}
    wide = environment | {"COLUMNS": "1000", "PYTHONIOENCODING": "utf-8"}
    out = subprocess.run(command, capture_output=True, encoding="utf-8", env=wide, check=True, timeout=60).stdout
    found = re.findall(r"╭─ (.+?) ─+╮\n(.*?)╰", out, re.DOTALL)
    return {title: "\n".join(line.strip("│ ") for line in body.splitlines()) for title, body in found}


def flags(panel: str) -> list[str]:
    return [found.replace("-", "_") for found in re.findall(r"^--([a-z0-9-]+)", panel, re.MULTILINE)]


def test_the_dozen_that_matters_comes_first_and_the_rest_in_numbered_panels(panels: dict[str, str]) -> None:
    titles = list(panels)
    assert titles[:2] == ["Arguments", "Parameters"]
    assert [title.partition(".")[0] for title in titles[2:]] == [str(number) for number in range(1, len(GROUPS) + 2)]
    assert flags(panels[titles[2]]) == list(FIRST)
    assert 10 <= len(FIRST) <= 15
    for title, group in zip(titles[3:], GROUPS, strict=True):
        assert title.endswith(group.title)
        expected = [name for name in group.model_fields if name not in (*FIRST, "env", "preset", "vary")]
        assert flags(panels[title]) == expected


def test_each_setting_is_explained_with_its_default_and_what_it_needs(panels: dict[str, str]) -> None:
    everything = "\n".join(panels.values())
    for name, field in Config.model_fields.items():
        assert " ".join(str(field.description).split()) in everything or name in ("env", "preset", "vary")
    assert re.search(r"--vmin FLOAT\S* +Smallest return .* \[0\.0; needs distribution=c51\]", everything)
    assert re.search(r"--priority-alpha FLOAT\S* .*\[0\.6; needs prioritized\]", everything)
    assert re.search(r"--hidden INT\.\.\. .*\[128 128\]", everything), "what holds by default is no need to tell"
