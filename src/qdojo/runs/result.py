"""The schema of `result.json`. `training/trainer.py` writes it."""

from typing import Literal, NotRequired, TypedDict


class EvaluationResult(TypedDict):
    """Greedy scores of the delivered agents, on episodes that neither training nor selection has seen."""

    episodes: int
    """Episodes of each member."""
    mean: list[float]
    """Mean undiscounted return of each member."""
    iqm: float
    """Interquartile mean of `mean` over members."""
    interval: list[float] | None
    """95 % bootstrap interval of `iqm` over members; None for fewer than three members."""
    cut: list[int]
    """Episodes of each member that were cut at `bound_steps`."""
    bound_steps: int


class Result(TypedDict):
    """How a run ended. A run that did not finish has only `status` and perhaps `error`, or no result at all."""

    status: Literal["finished", "interrupted", "failed"]
    error: NotRequired[str]
    """Why it failed."""
    stopped_by: NotRequired[str]
    """The observer that ended training, and its reason."""
    run: str
    env: str
    preset: str
    loop: str
    """`device`, `host` or `offline`."""
    seeds: int
    members: list[dict[str, float]]
    """The seed of each member, and the settings in which it differs."""
    steps: int
    """Environment steps of each member, as schedules count them."""
    env_steps: list[int]
    """Environment steps that each member has actually taken, without the rows where an episode restarts."""
    updates: int
    """Updates of each member."""
    seconds: dict[str, float]
    """Wall time of compiling (`compile`), training (`train`), evaluating (`eval`), and of all three (`total`)."""
    eval: EvaluationResult
    solved: list[bool] | None
    """Whether each member reached the threshold; None if there is no threshold."""
