"""Reads Markdown tables, for tests."""


def markdown(text: str) -> list[list[str]]:
    """The cells of the first table in a text, rows of equal length."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in lines}) == 1
    assert len({len(row) for row in rows}) == 1
    return rows
