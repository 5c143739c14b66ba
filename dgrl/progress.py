"""Progress bars with rate and time left on a terminal, silence in a pipe."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.unit}/s", style="progress.data.speed")


def progress(unit: str) -> Progress:
    """A rich progress display on standard error that counts ``unit``s; disabled where that is no terminal.

    Of several processes that train together (torchrun's RANK) only the first has one.
    """
    console = Console(stderr=True)
    shown = console.is_terminal and os.environ.get("RANK", "0") == "0"
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(),
        console=console,
        disable=not shown,
    )


def track(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    """Iterate over ``items`` with a progress bar."""
    with progress(unit) as display:
        yield from display.track(items, total=total, description=description)
