"""`docs/settings.md` says of each setting what its declaration says. `python tests/test_settings_page.py` writes it."""

from pathlib import Path
from typing import Any

from qdojo.config import GROUPS, Config, needed
from qdojo.config.compatibility import GoesWith, ReadWith, needs_of

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"

HEAD = """\
# Settings

This page lists all settings of a run by group. Each setting is a flag of `qdojo train` (`--capacity-steps 20000`), a
keyword argument of `qdojo.train` and `qdojo.Config` (`capacity_steps=20_000`), an environment variable
(`QDOJO_CAPACITY_STEPS=20000`), and an entry of a TOML file for `--config`, either in the table of its group
(`[replay]`) or outside all tables. A flag overrides the variable, the variable overrides the file, and the file
overrides the preset. A preset's settings for one environment override its settings for all environments. `qdojo
presets NAME` shows both.

The last column says what a setting needs. If you set one that the other settings rule out, or that would have no
effect, the run stops with an error before it begins. The preset chooses `agent`. In a file, write `"none"` for none.
The [glossary](glossary.md) explains terms such as member and row.
"""


CROSSED = """\
## What goes with what
This table lists the same requirements, by what is needed. All other combinations are allowed.
"""


def told(value: Any) -> str:
    """A default as the page has it."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def page() -> str:
    """What the page says."""
    parts = [HEAD]
    for group in GROUPS:
        where = f"`[{group.table}]`" if group.table else "above all tables"
        rows = [f"## {group.title}\n{(group.__doc__ or '').strip()} In a file: {where}.\n"]
        rows += ["| setting | default | meaning | needs |", "|---|---|---|---|"]
        for name in group.model_fields:
            field = Config.model_fields[name]
            about = " ".join(str(field.description).split())
            default = "required" if field.is_required() else f"`{told(field.default)}`"
            needs = ", ".join(f"`{need.told()}`" for need in needed(Config, name))
            rows.append(f"| `{name}` | {default} | {about} | {needs} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join([*parts, what_goes_with_what()])


def what_goes_with_what() -> str:
    """The same declarations, by what is needed."""
    by_need: dict[str, dict[type, list[str]]] = {}
    for kind in (GoesWith, ReadWith):
        for name in (name for group in GROUPS for name in group.model_fields):
            for need in needs_of(Config, name, kind):
                by_need.setdefault(need.told(), {}).setdefault(kind, []).append(f"`{name}`")
    rows = [
        f"| `{need}` | {', '.join(found.get(GoesWith, []))} | {', '.join(found.get(ReadWith, []))} |"
        for need, found in sorted(by_need.items())
    ]
    header = ["| needed | rejected without it | no effect without it |", "|---|---|---|"]
    return "\n".join([CROSSED, *header, *rows]) + "\n"


def test_the_page_says_what_the_declarations_say() -> None:
    written, expected = PAGE.read_text(encoding="utf-8").splitlines(), page().splitlines()
    for ours, theirs in zip(written, expected, strict=False):
        assert ours == theirs, "run `python tests/test_settings_page.py`"
    assert len(written) == len(expected)


def test_the_page_has_what_a_reader_needs_of_one_setting() -> None:
    line = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `vmin` "))
    assert line == "| `vmin` | `0.0` | Smallest return that the atoms cover. | `distribution=c51` |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
