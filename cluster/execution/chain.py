"""The phases of one training: which of them are stored, whose turn the next is, where its checkpoints lie.

A phase's result is stored under the hash of everything that it depends on, weights first and its row in ``phases``
last, so that every training that begins alike takes it from there. Knows nothing of Ray.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from cluster.execution.checkpoints import CheckpointFolder
from cluster.execution.leases import Lease, Leases
from cluster.results.store import Store
from denoise_core.specification import Link, TrialSpec
from denoise_core.trainer import Ranks, Trainer

log = logging.getLogger("denoise")


class Chain:
    """The links of ``spec`` for a trainer that walks along them."""

    def __init__(self, spec: TrialSpec, study: str, store: Store, ranks: Ranks):
        self.spec, self.study, self.store, self.ranks = spec, study, store, ranks
        self.links = spec.links
        self.shares = len(self.links) > 1 or self.links[0].phase_id != spec.trial_id
        self._leases = Leases(store)
        self._lease: Lease | None = None
        self.at = 0
        """The link that is trained next."""

    @property
    def folder(self) -> CheckpointFolder:
        """Checkpoints of the link that is being trained."""
        return CheckpointFolder(self.store, self.links[min(self.at, len(self.links) - 1)].phase_id)

    @property
    def complete(self) -> bool:
        """Whether no link is left to train."""
        return self.at >= len(self.links)

    @property
    def lost(self) -> bool:
        """Whether another training took over the link in work, as this one was silent for too long."""
        return self._lease is not None and self._lease.lost

    def advance(self, trainer: Trainer) -> list[dict[str, Any]] | None:
        """Takes up what is stored and claims the next link: the records of what was taken up.

        None where another training has the next link in work.
        """
        records = []
        while True:
            records += self._take_up(trainer)
            if self.complete:
                return records
            if not self._claim():
                return None
            at = self.at
            if self._is_stored():  # another training ended it between the two looks
                records += self._take_up(trainer)
            if self.at == at:  # not stored, or nothing that can be used
                log.info("trains %s (%s)", self.links[at].phase, self.links[at].phase_id)
                return records
            self.release()

    def keep(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        """Stores the link that has just ended, and goes to the next."""
        link = self.links[self.at]
        if self.ranks.rank == 0:
            last = trainer.stretches[self.at if self.shares else -1].phase.name
            CheckpointFolder(self.store, link.phase_id).keep_weights(trainer.kept(last))
            if self.shares:
                self.store.write("phases", link.phase_id, [self._row(link, record)])
                self.folder.remove()
        self.release()
        self.at += 1

    def broken(self, error: str) -> tuple[str, str] | None:
        """The phase in work, that others may need, with the error that ended it."""
        if not self.shares or self.complete or self._lease is None:
            return None
        return self.links[self.at].phase_id, error

    def release(self) -> None:
        """Gives the lease back, if there is one."""
        if self._lease is not None:
            self._lease.give_back()
            self._lease = None

    def _take_up(self, trainer: Trainer) -> list[dict[str, Any]]:
        """Goes on after the phases that are stored; returns their records."""
        last = len(self.links)
        while (found := self.ranks.share(partial(self._stored, last))) is not None:
            index, weights, records = found
            try:
                trainer.start_after(self.links[index].phase, weights)
            except ValueError as error:  # of an older version of the code
                log.warning("the stored %s does not fit (%s): it is trained again", self.links[index].phase, error)
                last = index
                continue
            new = {link.phase for link in self.links[self.at : index + 1]}
            self.at = index + 1
            log.info("takes over %s", ", ".join(link.phase for link in self.links if link.phase in new))
            return [record for record in records if record["phase"] in new]
        return []

    def _claim(self) -> bool:
        """Whether it is this training's turn to train the next link; the same on every rank."""
        return bool(self.ranks.share(self._take))

    def _is_stored(self) -> bool:
        """Whether the next link is stored by now, the same on every rank."""
        link = self.links[self.at]
        return self.shares and bool(self.ranks.share(lambda: self.store.has("phases", link.phase_id)))

    def _take(self) -> bool:
        self._lease = self._leases.take(self.links[self.at].phase_id)
        return self._lease is not None

    def _stored(self, last: int) -> tuple[int, dict[str, Tensor], list[dict[str, Any]]] | None:
        """The last link before ``last`` that is stored with its weights, and the records of it and those before it."""
        if not self.shares:
            return None
        for index in range(last - 1, self.at - 1, -1):
            ids = [link.phase_id for link in self.links[: index + 1]]
            rows = {row["phase_id"]: row for row in self.store.read("phases", ids).to_pylist()}
            if ids[-1] in rows:
                weights = CheckpointFolder(self.store, ids[-1]).kept_weights()
                if weights is not None:
                    found = [rows[one] for one in ids if one in rows]
                    return index, weights, [{**row, "curves": json.loads(row["curves_json"])} for row in found]
        return None

    def _row(self, link: Link, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "phase_id": link.phase_id,
            "group_id": link.group_id,
            "trial_id": self.spec.trial_id,
            "phase": link.phase,
            "method": self.spec.method,
            "study": self.study,
            "seed": self.spec.seed,
            "steps": link.steps,
            "train_s": record["train_s"],
            "curves_json": json.dumps(record["curves"]),
        }
