"""``python -m pipeline``: the ``dgrl`` command, with the code of the working directory."""

import sys


def main() -> None:
    """Run the command line, or the stage inputs, which runs each time and so imports little."""
    try:
        if sys.argv[1:2] == ["inputs"]:
            from pipeline.inputs import main as run
        else:
            from pipeline.cli import main as run
    except ModuleNotFoundError as error:  # another Python than that of the project's environment
        sys.exit(
            f"error: {sys.executable} has no module {error.name}; activate the project's environment "
            "(source .venv/bin/activate), or run make repro"
        )
    run()


if __name__ == "__main__":
    main()
