"""Run in a pod that may read the state: what is below a folder of it, as a tar on stdout.

python - restaurants/events
"""

import io
import sys
import tarfile

from evermodel import storage
from evermodel.workflow import Project

root = storage.join(Project.open().profile.state_uri, sys.argv[1])
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    for uri in storage.list_files(root):
        data = storage.read_bytes(uri)
        entry = tarfile.TarInfo(uri.partition("?")[0].removeprefix(root.partition("?")[0]).lstrip("/"))
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
