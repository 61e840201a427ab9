"""The OpenAPI 3.1 document of the HTTP API: ``openapi.json`` in this folder.

The file is the document; only the version is set when it is loaded. A new route needs an entry in
its ``paths``. Tests compare the file with the routes and with the constants of the code that it
repeats. Parameters and responses that several operations share are components of the document.
"""

from importlib import resources
from typing import Any

import msgspec

from hedgehogd import __version__

OPENAPI_PATH = "/api/v1/openapi.json"

DOCUMENT: dict[str, Any] = msgspec.json.decode(
    resources.files("hedgehogd.web").joinpath("openapi.json").read_bytes()
)
DOCUMENT["info"]["version"] = __version__
PATHS: dict[str, dict[str, Any]] = DOCUMENT["paths"]


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """Return ``part`` of the document, or the component that it refers to by ``$ref``."""
    if "$ref" not in part:
        return part
    _, _, kind, name = part["$ref"].split("/")
    component: dict[str, Any] = DOCUMENT["components"][kind][name]
    return component
