"""First module of the frozen program: it repairs two things that freezing breaks."""

import encodings.idna  # noqa: F401  # see below
import os
import ssl
from pathlib import Path

import certifi
import pyimod02_importers  # type: ignore[import-not-found]

# PyInstaller reads a module from the executable when it is first imported, and finds the
# executable by its path. After an upgrade of the package that path holds the next version, and a
# daemon that has not been restarted yet would read wrong bytes from it, in its drain at the
# latest. /proc/self/exe is always the file that was started. The codec of host names is the only
# late import from another file; it is imported above.
pyimod02_importers.pyz_archive._filename = "/proc/self/exe"  # noqa: SLF001  # no public way

# The packed OpenSSL looks for certificates in Debian's folder. On other systems, and on a Debian
# without ca-certificates, TLS to the exchange would fail; certifi's certificates are packed too.
known = ssl.get_default_verify_paths()
if not known.cafile and not (known.capath and any(Path(known.capath).iterdir())):
    os.environ.setdefault("SSL_CERT_FILE", certifi.where())
