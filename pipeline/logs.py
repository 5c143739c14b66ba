"""What a stage says, on standard error."""

import logging

from rich.console import Console
from rich.logging import RichHandler


def set_up_logs(level: int = logging.INFO) -> None:
    """Show the messages of this process: colours on a terminal, plain whole lines in a pipe."""
    console = Console(stderr=True)
    terminal = RichHandler(console=console, show_time=False, show_path=False)
    handler = terminal if console.is_terminal else logging.StreamHandler()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in ("dgrl", "pipeline"):  # -v is of no interest for others' libraries
        logging.getLogger(name).setLevel(level)
