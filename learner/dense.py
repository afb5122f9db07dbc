"""The dense learner: it learns from every event and never waits for anybody."""

from __future__ import annotations

import logging

from learner.online import OnlineModel
from learner.prequential import Ports, Prequential, RunPlan
from learner.step import LearnerStep

log = logging.getLogger(__name__)


class DenseLearner:
    """The model from which all sparse ones are cut, going on from its last checkpoint.

    Of several partitions it chooses the order (:class:`stream.order.Chosen`), and its predictions
    state it. After a restart it first repeats what it had published.

    Parameters
    ----------
    online
        The model at the start of the run; a checkpoint, where there is one, takes its place.
    ports
        What it reads from and writes to.
    plan
        What it shares with all models of the run.
    """

    def __init__(self, online: OnlineModel, ports: Ports, plan: RunPlan) -> None:
        self._course = Prequential(online, ports, plan, leads=True)
        self._config = online.config
        self._done = False
        if self._course.resume():
            log.info("%s goes on after %d events", ports.model, self._course.count)

    @property
    def online(self) -> OnlineModel:
        """The model."""
        return self._course.online

    def step(self) -> LearnerStep:
        """Do at most one batch.

        1. Read a batch.
        2. Predict it.
        3. Publish the predictions.
        4. Learn from it.
        5. Leave a snapshot, if its count is on the grid.
        6. Checkpoint, if one is due, once the predictions are safe.

        Where the input ends it leaves a last snapshot and a last checkpoint.
        """
        course = self._course
        events = 0 if self._done else course.step()
        if events:
            self._keep_what_is_due()
        elif course.ended and not self._done:
            course.leave(snapshot=True, checkpoint=True)
            course.settle()
            self._done = True
        waiting_for = None if events or self._done else course.waits_for
        return LearnerStep(course.count, events, waiting_for, self._done)

    def close(self) -> None:
        """Checkpoint where it stands, so that nothing is learned twice."""
        self._course.checkpoint()

    def _keep_what_is_due(self) -> None:
        count, config = self._course.count, self._config
        self._course.leave(
            snapshot=count % config.snapshot_events == 0,
            checkpoint=count % config.checkpoint_events == 0,
        )
