"""``python -m pipeline``: the ``dgrl`` command, with the code of the working directory."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
