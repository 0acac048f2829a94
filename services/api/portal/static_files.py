"""Serve the portal's style sheet, script and images from memory. Their URLs contain a version."""

import hashlib
from pathlib import Path

from litestar import Response
from litestar.exceptions import NotFoundException

FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class StaticFiles:
    """The static files. Templates use ``url("portal.css")``, the route uses ``answer``."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in folder.iterdir() if path.suffix in _TYPES
        }
        self._versions = {name: hashlib.sha256(body).hexdigest()[:12] for name, (body, _) in self._files.items()}

    def url(self, name: str) -> str:
        return f"/static/{self._versions[name]}/{name}"

    def answer(self, version: str, name: str) -> Response[bytes]:
        """Answer with a file. Raises ``NotFoundException``.

        A request for another version gets the current content, uncached, because pages rendered before an update request it.
        """
        if name not in self._files:
            raise NotFoundException
        body, media_type = self._files[name]
        current = version == self._versions[name]
        cache = "public, max-age=31536000, immutable" if current else "no-cache"
        return Response(body, media_type=media_type, headers={"cache-control": cache})
