"""`qdojo presets`: list the presets, or show one. Settings are checked in `qdojo.config`."""

from typing import Annotated, Any

from cyclopts import Parameter

from qdojo.cli.options import Json
from qdojo.cli.output import emit, show_table, tell
from qdojo.config import NO_SETTINGS, make_config, preset_tables


def presets(
    name: Annotated[str | None, Parameter(help="Preset whose settings to show.")] = None, /, *, json: Json = False
) -> None:
    """List the presets, or show one."""
    if name is not None:
        make_config("any", name)  # rejects an unknown name and suggests similar ones
        _show(name, json)
    elif json:
        emit({"presets": [_entry(known) for known in preset_tables()]})
    else:
        show_table(("preset", "about"), [(known, _entry(known)["about"]) for known in preset_tables()])


def _entry(name: str) -> dict[str, Any]:
    table = preset_tables()[name]
    return {
        "name": name,
        "about": table["about"],
        "extends": table.get("extends"),
        "settings": {field: value for field, value in table.items() if field not in NO_SETTINGS},
        "tuned": table.get("env", {}),
    }


def _show(name: str, json: bool) -> None:
    entry = _entry(name)
    if json:
        emit(entry)
        return
    tell(f"{name}: {entry['about']}")
    tell(f"It extends the settings of {entry['extends']}.\n" if entry["extends"] else "")
    rows = [("any", field, str(value)) for field, value in entry["settings"].items()]
    for env, table in entry["tuned"].items():
        rows += [(env, field, str(value)) for field, value in table.items()]
    show_table(("env", "setting", "value"), rows)
