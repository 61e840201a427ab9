"""Run by the frozen program before anything else: what freezing would break is mended here."""

import encodings.idna  # noqa: F401  # see below
import os
import ssl
from pathlib import Path

import certifi
import pyimod02_importers  # type: ignore[import-not-found]

# PyInstaller reads a module out of the executable when it is first imported, and finds the
# executable by its path. While a package is upgraded that path holds the next version, and a
# daemon that has not been restarted yet would read nonsense from it, in its drain at the
# latest. /proc/self/exe is the file that was started, whatever stands at its path by now.
# The codec of host names is the one late import that comes from another file; it is made above.
pyimod02_importers.pyz_archive._filename = "/proc/self/exe"  # noqa: SLF001  # no public way

# The OpenSSL inside looks for certificates where Debian keeps them. Elsewhere, and on a Debian
# without ca-certificates, the exchange would be refused; those of certifi are always with us.
known = ssl.get_default_verify_paths()
if not known.cafile and not (known.capath and any(Path(known.capath).iterdir())):
    os.environ.setdefault("SSL_CERT_FILE", certifi.where())
