"""The search as Ray Tune sees it: a Searcher whose suggestions come from Optuna, through the board."""

from __future__ import annotations

from typing import Any

import ray
from ray.tune.search import Searcher


class StudySearch(Searcher):
    """Gives each Tune trial its first suggestion; further ones are pulled by the trial's workers themselves.

    Optuna's study lives with the board, because its pruner answers the workers at their rungs. What a suggestion
    measured is told there (COMPLETE, PRUNED, FAIL), so Tune's own results say nothing to the sampler.
    """

    def __init__(self, board: Any):
        super().__init__()
        self._board = board

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The parameters of the trial's first suggestion, or FINISHED."""
        params = ray.get(self._board.reserve.remote(trial_id))
        return Searcher.FINISHED if params is None else dict(params)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to tell: the workers told the board."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the search is rebuilt from the results store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
