"""The workers as processes of their own, as a user starts them by command line."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from resprout.cli import main
from resprout.monitoring.console import settings_toml
from resprout.settings import Loaded, Settings

COMMANDS = {
    "source": ("generate",),
    "dense": ("learn", "dense"),
    "sparse": ("learn", "sparse"),
    "never_rebuilt": ("learn", "never_rebuilt"),
    "pruner": ("prune",),
    "evaluator": ("evaluate",),
}
LEARNERS = tuple(name for name in COMMANDS if name != "source")
PATIENCE = 60.0
"""Seconds, at most, that anything may take."""


@dataclass
class Hand:
    """One process: everything that it says goes into a file."""

    process: BaseProcess
    said: Path

    @property
    def text(self) -> str:
        return self.said.read_text() if self.said.exists() else ""

    def health(self) -> dict[str, Any] | None:
        """Ask how it is; None while it does not answer yet, or no longer."""
        found = re.findall(r"answers at (\S+)/healthz", self.text)
        if not found:
            return None
        try:
            with urllib.request.urlopen(f"{found[-1]}/healthz", timeout=10) as answer:
                state: dict[str, Any] = json.load(answer)
        except OSError:
            return None
        return state

    def state(self) -> dict[str, Any]:
        """Return what its health says of its first worker; empty where there is no answer."""
        return next(iter(self.workers().values()), {})

    def workers(self) -> dict[str, Any]:
        """Return what its health says of each of its workers."""
        health = self.health()
        found: dict[str, Any] = health["workers"] if health else {}
        return found

    def wait(self) -> int | None:
        """Wait for its end, and return the exit code."""
        self.process.join(PATIENCE)
        return self.process.exitcode

    def end(self, how: signal.Signals) -> int | None:
        """Send a signal, and return the exit code."""
        assert self.process.pid is not None
        os.kill(self.process.pid, how)
        return self.wait()


@dataclass
class Crew:
    """All processes of one run.

    Parameters
    ----------
    folder
        Holds the configuration, the state folder ``run``, and what everybody says.
    settings
        Of the run.
    """

    folder: Path
    settings: Settings
    hands: dict[str, Hand] = field(default_factory=dict)

    def __post_init__(self) -> None:
        origins: dict[str, str] = defaultdict(lambda: "test")
        self.config.write_text(settings_toml(Loaded(self.settings, origins)))

    @property
    def config(self) -> Path:
        return self.folder / "settings.toml"

    @property
    def state(self) -> Path:
        return self.folder / "run"

    def start(self, name: str, *more: str) -> Hand:
        """Start a worker, or start it again; of several models, named with ``+``, all in one."""
        said = self.folder / f"{name}.log"
        said.unlink(missing_ok=True)
        given = ("--config", str(self.config), "--state", str(self.state))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        process = context.Process(target=_be, args=((*command(name), *given, *more), said))
        process.start()
        self.hands[name] = Hand(process, said)
        return self.hands[name]

    def close(self) -> None:
        for hand in self.hands.values():
            hand.process.kill()
            hand.process.join()
            hand.process.close()


@contextmanager
def crew(folder: Path, settings: Settings) -> Iterator[Crew]:
    """Gather processes, none of which outlives the block."""
    gathered = Crew(folder, settings)
    try:
        yield gathered
    finally:
        gathered.close()


def until(condition: Callable[[], bool], crew: Crew) -> None:
    """Wait for something that the processes bring about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        failed = [n for n, hand in crew.hands.items() if hand.process.exitcode not in (None, 0)]
        assert not failed, "\n".join(f"{name}: {crew.hands[name].text}" for name in failed)
        assert time.monotonic() < end, "\n".join(h.text for h in crew.hands.values())
        time.sleep(0.02)


def command(name: str) -> tuple[str, ...]:
    """Return the command of a worker, or of several models in one process: ``dense+sparse``."""
    return COMMANDS.get(name) or ("learn", *name.split("+"))


def _be(arguments: Sequence[str], said: Path) -> None:
    """Be the command line in a process that has imported everything already."""
    to = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(to, 1)
    os.dup2(to, 2)
    main(list(arguments))
