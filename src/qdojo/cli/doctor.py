"""`qdojo doctor`: report what is wrong with an environment and how to fix it. It changes nothing itself."""

from typing import Annotated

from cyclopts import Parameter

from qdojo.cli.options import Json
from qdojo.cli.output import emit, show_table
from qdojo.errors import UsageError


def doctor(
    env: Annotated[str, Parameter(help="A Gymnasium id, `module:Id`, or `package.module:factory`.")],
    /,
    *,
    observe: Annotated[
        tuple[str, ...] | None,
        Parameter(help="Keys of a Dict observation to use.", consume_multiple=1, negative_iterable=""),
    ] = None,
    json: Json = False,
) -> int:
    """Check an environment and return exit code 1 if a check fails."""
    from qdojo.envs.doctor import examine

    findings = examine(env, observe)
    if [finding.ok for finding in findings] == [False]:
        raise UsageError(findings[0].message)
    healthy = all(finding.ok for finding in findings)
    if json:
        emit({"env": env, "healthy": healthy, "checks": [finding._asdict() for finding in findings]})
    else:
        show_table(
            ("check", "", "what was seen"),
            [(finding.check, "ok" if finding.ok else "WRONG", finding.message) for finding in findings],
        )
    return 0 if healthy else 1
