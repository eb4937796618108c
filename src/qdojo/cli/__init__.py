"""The command line: dispatches to a verb and maps its outcome to an exit code. Each verb has a file of its own.

A verb's file is imported when the verb is used, and imports jax and keras only when it needs them, because
`qdojo --help` has to answer at once.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnknownOptionError

from qdojo import __version__
from qdojo.cli.output import say
from qdojo.errors import DamagedFile, QdojoError, UsageError

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

VERBS = (
    ("train", "qdojo.cli.train:train", "Train an agent on an environment."),
    ("resume", "qdojo.cli.resume:resume", "Continue a run from its last checkpoint, exactly as if it had not stopped."),
    ("eval", "qdojo.cli.evaluate:evaluate", "Evaluate a trained agent on unseen episodes, without exploration."),
    ("watch", "qdojo.cli.watch:watch", "Watch a trained agent play, in a window or as a video."),
    ("runs", "qdojo.cli.runs:runs", "List all runs, oldest first."),
    ("show", "qdojo.cli.show:show", "Show a run: settings, metrics and learning curve."),
    ("presets", "qdojo.cli.presets:presets", "List the presets, or show the settings of one."),
    ("doctor", "qdojo.cli.doctor:doctor", "Check an environment and say how to fix what is wrong."),
    ("export", "qdojo.cli.export:export", "Export a trained network as a Keras model or weights."),
)
"""Each verb, the function that implements it, and its line of help."""

app = App(
    name="qdojo",
    help="Train deep Q-learning agents, watch them learn, and see honestly how good they are.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
for place, (verb, home, about) in enumerate(VERBS):
    app.command(home, name=verb, help=about, sort_key=place)


def main() -> None:
    """Entry point of the console script `qdojo`."""
    for stream in (sys.stdout, sys.stderr):
        # A run must not fail because the terminal cannot encode its name.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


def run(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code; only unexpected errors are raised."""
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code or DONE
    except CycloptsError as error:
        say((list(tokens[:1]) == ["train"] and _meant(error)) or " ".join(str(error).split()))
        return WRONG_USAGE
    except (UsageError, DamagedFile) as error:
        say(str(error))
        return WRONG_USAGE
    except QdojoError as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        say("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe. Without this the interpreter would report the error again on exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _meant(error: CycloptsError) -> str | None:
    """Return the message that names qdojo's flag for a flag of another library; None for any other error."""
    from qdojo.config.words import meant_by

    if not isinstance(error, UnknownOptionError):
        return None
    flag = (error.token.keyword or error.token.value).partition("=")[0]
    no = "--no-" if flag.startswith("--no-") else "--"

    def spelled(name: str) -> str:
        return no + name.replace("_", "-")

    return meant_by(flag, flag.removeprefix(no), spelled)
