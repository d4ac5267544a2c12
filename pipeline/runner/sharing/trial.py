"""A round trip to a remote, as a process of its own: one that never answers can be given up.

On stdin the settings of the remote as DVC has them, as JSON. Ends with 0 where what was written
came back, and what was damaged there did not; else says last on stderr what went wrong.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PREFIX = ("files", "md5")  # where DVC keeps objects


def main() -> None:
    from dvc.fs import get_cloud_fs, localfs
    from dvc_data.hashfile.db import get_odb
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    kind, config, path = get_cloud_fs({}, **json.load(sys.stdin))
    fs = kind(**config)
    there: Any = get_odb(fs, fs.join(path, *PREFIX), hash_name="md5", **config)
    data = os.urandom(1024)
    oid, other = _md5(data), _md5(data[::-1])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.write_bytes(data)
        here: Any = get_odb(localfs, str(Path(folder, "cache")), hash_name="md5")
        try:
            # the second under a name that is not its content's: damage
            there.add([str(source)] * 2, localfs, [oid, other], verify=False, check_exists=False)
            both = [HashInfo("md5", one) for one in (oid, other)]
            transfer(there, here, both, verify=there.verify)
        finally:
            for one in (oid, other):
                if there.exists(one):
                    there.delete(one)
        if not here.exists(oid) or Path(here.oid_to_path(oid)).read_bytes() != data:
            sys.exit("an object that was written did not come back")
        if here.exists(other):
            sys.exit("an object that was damaged there came back")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    main()
