"""What the remote has of all that this clone needs, as a process of its own: a remote that died can
be given up.

DVC takes what lies in a folder for sent once the folder's listing is there, for a push and in
`dvc status --cloud` alike: a file of it that was deleted in the remote is never sent again. Here
each object is looked for, and with `send` what is lacking and lies in the cache is sent. On stdout
JSON: the paths of what is lacking still, each with whether the cache has it.
"""

import json
import sys
from typing import Any


def main() -> None:
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    repo = Repo(_wait_for_lock=True)
    with repo.lock:
        used = repo.used_objs(all_branches=True, all_tags=True, force=True, push=True)
        # those under None belong to the default remote
        paths = {str(one.value): str(one.obj_name) for one in used.get(None, ())}
        remote, cache = repo.cloud.get_remote_odb(), repo.cache.local
        here = set(cache.oids_exist(list(paths)))
        lacking = _lacking(remote, paths)
        if "send" in sys.argv[1:] and (found := lacking & here):
            transfer(cache, remote, [HashInfo("md5", oid) for oid in sorted(found)])
            lacking = _lacking(remote, paths)
    sys.stdout.write(json.dumps({paths[oid]: oid in here for oid in lacking}))


def _lacking(remote: Any, paths: dict[str, str]) -> set[str]:
    return set(paths) - set(remote.oids_exist(list(paths)))


if __name__ == "__main__":
    main()
