"""The sparse learner: the same steps under a fixed mask, until another candidate takes over."""

from __future__ import annotations

import logging

from learner.checkpoint import LearnerState
from learner.online import OnlineModel
from learner.prequential import Ports, Prequential, RunPlan
from learner.regime import Head, Over, Regime, Revert, Swap, Wait
from learner.step import LearnerStep

log = logging.getLogger(__name__)


class SparseLearner:
    """A pruned model in service, going on from its last checkpoint.

    It begins as the first candidate that its regime names, and becomes every later one at the
    count at which that is promoted. Between two swaps its mask stands. Where the regime takes it
    back to an earlier version, it has that one's weights and mask again, and goes on with the next
    event: those between are not learned anew.

    Parameters
    ----------
    online
        A model of the same kind as the dense one; its weights are replaced before they are used.
    ports
        What it reads from and writes to.
    plan
        What it shares with all models of the run.
    regime
        Says at every boundary of a batch whether to go on, swap or wait.
    head
        Told of every swap once that is safe, and at every step which version is in force; None
        tells nobody.
    """

    def __init__(
        self,
        online: OnlineModel,
        ports: Ports,
        plan: RunPlan,
        regime: Regime,
        head: Head | None = None,
    ) -> None:
        self._course = Prequential(online, ports, plan)
        self._config = online.config
        self._regime = regime
        self._head = head
        self._told = 0
        self._done = False
        self._started = self._course.resume()
        if self._started:
            log.info("%s goes on after %d events", ports.model, self._course.count)

    @property
    def online(self) -> OnlineModel:
        """The model."""
        return self._course.online

    @property
    def version(self) -> int:
        """The version in force, 0 before the first."""
        return self._course.version

    def step(self) -> LearnerStep:
        """Ask the regime, and do at most one batch or one swap.

        1. Read a batch.
        2. Predict it.
        3. Publish the predictions.
        4. Learn from it.
        5. Checkpoint, if one is due, once the predictions are safe.

        Where the input ends it leaves a last snapshot and a last checkpoint.
        """
        if self._done:
            return self._report()
        self._tend()
        answer = self._regime.at(self._course.count if self._started else None)
        match answer:
            case Wait(for_):
                return self._report(waiting_for=for_)
            case Swap():
                return self._report() if self._swap(answer) else self._go()
            case Revert(to):
                return self._report() if self._revert(to) else self._go()
            case Over():
                return self._finish()
        return self._go()

    def close(self) -> None:
        """Checkpoint where it stands, so that nothing is learned twice."""
        if self._started:
            self._course.checkpoint()

    def _go(self) -> LearnerStep:
        if not self._started:
            raise ValueError(
                f"the regime lets {self._course.ports.model} go on before its first mask; "
                "it must answer Swap, Wait or Over"
            )
        events = self._course.step()
        if events:
            due = self._course.count % self._config.checkpoint_events == 0
            self._course.leave(checkpoint=due)
            return self._report(events)
        return (
            self._finish()
            if self._course.ended
            else self._report(waiting_for=self._course.waits_for)
        )

    def _tend(self) -> None:
        if self._head is not None and self._course.version:
            self._head.tend(self._course.version)

    def _finish(self) -> LearnerStep:
        if self._started:
            self._course.leave(snapshot=True, checkpoint=True)
            self._course.settle()
        self._done = True
        return self._report()

    def _swap(self, swap: Swap) -> bool:
        """Become a candidate; False where it is this version already."""
        changes = not self._started or swap.version > self._course.version
        if changes:
            self._course.become(self._candidate(swap))
            self._started = True
        self._keep(swap, changes=changes)
        return changes

    def _revert(self, swap: Swap) -> bool:
        """Become what an earlier version was; False where that is done already."""
        changes = swap.version > self._course.version
        if changes:
            if self._course.count != swap.count:
                raise ValueError(
                    f"{self._course.ports.model} stands at {self._course.count} events and cannot "
                    f"go back to {swap.snapshot} at {swap.count}; both must be equal"
                )
            self._course.revert(swap.version, self._course.ports.snapshots.read(swap.snapshot))
        self._keep(swap, changes=changes)
        return changes

    def _keep(self, swap: Swap, *, changes: bool) -> None:
        """Make a change safe, and tell the head, once in this life."""
        if changes:
            self._course.checkpoint()
            log.info(
                "%s is version %d after %d events",
                self._course.ports.model,
                swap.version,
                swap.count,
            )
        if self._head is not None and swap.version > self._told:
            self._head.publish(swap)
            self._told = swap.version

    def _candidate(self, swap: Swap) -> LearnerState:
        found = self._course.ports.snapshots.read(swap.snapshot)
        here = self._course.count if self._started else swap.count
        if not here == swap.count == found.count:
            raise ValueError(
                f"{self._course.ports.model} stands at {here} events and cannot swap to "
                f"{swap.snapshot} of {found.count} events at {swap.count}; all three must be equal"
            )
        return LearnerState(swap.version, found.cursor, found.trained_through, found.tensors)

    def _report(self, events: int = 0, waiting_for: str | None = None) -> LearnerStep:
        return LearnerStep(self._course.count, events, waiting_for, self._done)
