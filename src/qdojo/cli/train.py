"""`qdojo train`: merge settings from flags, environment, file and preset, then start a run. For training, see `api`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qdojo.cli.options import RUNS, Fields, Json, RunsFolder, env_var
from qdojo.cli.running import carry_out
from qdojo.config import make_config, read_settings
from qdojo.errors import UsageError
from qdojo.progress import Progress

if TYPE_CHECKING:
    from qdojo.api import Run

NO_FIELDS: Fields = {}


def train(
    env: Annotated[
        str | None,
        Parameter(
            env_var=env_var("env"),
            show_env_var=False,
            help="A Gymnasium id, `module:Id`, or `package.module:factory`.",
        ),
    ] = None,
    /,
    *,
    preset: Annotated[
        str | None,
        Parameter(
            env_var=env_var("preset"),
            show_env_var=False,
            help="Named collection of settings to start from; `qdojo presets` lists them.",
        ),
    ] = None,
    config: Annotated[Path | None, Parameter(help="TOML file with settings, such as the config.toml of a run.")] = None,
    runs: RunsFolder = RUNS,
    json: Json = False,
    fields: Annotated[Fields, Parameter(name="*")] = NO_FIELDS,
) -> int:
    """Train an agent. Flags override environment variables, which override the file, which overrides the preset."""
    settings = ({} if config is None else read_settings(config)) | fields
    name = env or settings.pop("env", None)
    settings.pop("env", None)
    beginning = preset or settings.pop("preset", "default")
    settings.pop("preset", None)
    if name is None:
        raise UsageError("Name an environment, as in `qdojo train CartPole-v1`.")
    # Rejects bad settings before jax is imported, which takes seconds.
    wanted = make_config(name, beginning, **settings)

    def work(progress: Progress) -> "Run":
        from qdojo import api
        from qdojo.processor import check_shards, open_devices

        check_shards(wanted.shards)
        open_devices(wanted.shards, wanted.members)
        return api.train(name, preset=beginning, root=runs, observers=[progress], progress=False, **settings)

    return carry_out(work, as_json=json)
