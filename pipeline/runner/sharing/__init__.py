"""What a team has in common: DVC's cache on a shared disk, a remote, the store of answers.

    clones.py     which clones use a shared cache, in a folder of that cache
    busy.py       who is at work in a clone, and holding it still
    shared.py     a group-writable cache; links.py: checkpoints in it as links
    remote.py     a DVC remote that is verified on read; trial.py: the round trip, in a process
    transfer.py   push and pull in a limit of time (limited.py); arrived.py: what the remote has
    answers.py    the URL of the store, in a file of the project
    collect.py    removing from a shared cache what no known clone needs

Each way is tried by a round trip before a setting is written.
"""
