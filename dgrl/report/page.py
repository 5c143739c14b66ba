"""Self-contained HTML pages: a template with its own escaping, and files inside of links."""

import base64

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(*packages: str) -> Environment:
    """The templates of packages; values are escaped, and one that is missing is an error."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "") for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(kind: str, data: bytes) -> str:
    """A file as a ``data:`` link; ``kind`` is its media type."""
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")
