"""Builds the sandbox around one program. Runs by itself: python -I -S inside.py, job on stdin.

Three processes. The first makes the namespaces, the second is process 1 in them: it builds a file
system of nothing but the interpreter and an empty /tmp, and starts the third, the program, without
rights. When the program ends, or the first process does, process 1 ends, and the kernel kills all
that is left in the namespace. Only the standard library; errors go to stderr, which the program
never sees.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

NOBODY = 65534
NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
#     mounts       cgroup       host name    ipc          users        processes    network
RDONLY, NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
RESULT = 3  # descriptor on which the program's verdict leaves
LIBC = ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> None:
    """Raise OSError naming `what` unless a C function returned 0 or more."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    found = LIBC.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    call(f"mount {source or kind} on {target}", found)


def lock(path: str, writable: bool = False) -> None:
    """No set-user-id and no devices below `path`, and no writing."""
    flags = NOSUID if writable else NOSUID | RDONLY
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    number = ctypes.c_long(SYS_MOUNT_SETATTR)
    found = LIBC.syscall(
        number, AT_FDCWD, path.encode(), AT_RECURSIVE, attributes, ctypes.sizeof(attributes)
    )
    call(f"mount_setattr {path} (Linux 5.12 has it)", found)


def namespaces() -> None:
    """Move into new ones, mapped to a user without rights outside."""
    uid, gid = os.geteuid(), os.getegid()
    ready, done = os.pipe(), os.pipe()
    helper = os.fork() if uid == 0 else None
    if helper == 0:  # stays outside: only there may root map two users
        os.close(ready[1])
        try:
            if not os.read(ready[0], 1):
                return  # there are no namespaces
            for name in ("uid", "gid"):
                with open(f"/proc/{os.getppid()}/{name}_map", "w", encoding="utf-8") as file:
                    file.write(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
            os.write(done[1], b"x")
        finally:
            os._exit(0)
    os.close(done[1])
    call("unshare", LIBC.unshare(NEW))
    if helper is None:
        with open("/proc/self/setgroups", "w", encoding="utf-8") as file:
            file.write("deny")
        for name, outside in (("uid", uid), ("gid", gid)):
            with open(f"/proc/self/{name}_map", "w", encoding="utf-8") as file:
                file.write(f"{NOBODY} {outside} 1")
    else:
        os.write(ready[1], b"x")
        if not os.read(done[0], 1):
            raise PermissionError("root may not map users here")
        os.waitpid(helper, 0)
    for end in (*ready, done[0]):
        os.close(end)


def file_system(job: dict[str, Any]) -> None:
    """A new root: what the job shows, read-only, and an empty /tmp. Nothing else is left."""
    mount("", "/", "", REC | PRIVATE)
    # no process in here may make namespaces of its own, in which it would have rights
    with open("/proc/sys/user/max_user_namespaces", "w", encoding="utf-8") as file:
        file.write("0")
    # nor memory that outlives the process that filled it
    with (
        contextlib.suppress(OSError),
        open("/proc/sys/kernel/shmmni", "w", encoding="utf-8") as file,
    ):
        file.write("0")  # Linux 5.19 lets root do this
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    pivot = ctypes.c_long(SYS_PIVOT_ROOT[os.uname().machine])
    call("pivot_root", LIBC.syscall(pivot, b"/tmp", b"/tmp/old"))
    os.chdir("/")
    os.mkdir("/tmp")
    size = f"size={job['disk_bytes']},nr_inodes={job['files']},mode=1777"
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV | NOEXEC, size)
    for path in job["shown"]:
        show(path)
    call("umount the old root", LIBC.umount2(b"/old", DETACH))
    os.rmdir("/old")
    mount("", "/", "", BIND | 32 | RDONLY | NOSUID | NODEV)  # 32: change the mount that is there
    os.chdir("/tmp")


def show(path: str) -> None:
    """A file, folder or link of the old root at the same place in the new one."""
    old = f"/old{path}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(old):
        os.symlink(os.readlink(old), path)
        return
    if os.path.isdir(old):
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(old, path, "", BIND | REC)
    lock(path, writable=path.startswith("/dev/"))


def without_rights(job: dict[str, Any]) -> None:
    """Limits, then no user, group or capability, and none to be had."""
    for name, value in job["limits"].items():
        # at the hard limit of seconds the kernel kills without saying why: warned a second before
        hard = value + 1 if name == "CPU" else value
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, hard))
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if os.getuid() == 0:
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", LIBC.capset(header, (ctypes.c_uint32 * 6)()))
    call("prctl", LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def program(job: dict[str, Any], errors: int) -> None:
    """Become the program: what it gets on stdin, both outputs on ours. `errors` closes by exec."""
    os.setsid()
    given = os.memfd_create("given")
    os.write(given, job["given"].encode())
    os.lseek(given, 0, os.SEEK_SET)
    os.dup2(given, 0)
    os.dup2(1, 2)
    try:
        without_rights(job)
        command = [job["python"], "-I", "-S", "-B", "-c", job["source"]]
        os.execve(job["python"], command, {"PATH": "/nowhere", "LC_ALL": "C.UTF-8"})
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
        os.write(errors, f"{error}".encode())
        os._exit(1)


def first(job: dict[str, Any]) -> None:
    """Process 1: build, start the program, and end when it ends."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    file_system(job)
    call("sethostname", LIBC.sethostname(b"sandbox", 7))
    child = os.fork()
    if child == 0:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        program(job, os.dup(2))
    os.close(2)
    os.close(RESULT)
    while True:
        found, status = os.wait()
        if found == child:
            os._exit(os.waitstatus_to_exitcode(status) % 256)


def end_with_parent() -> None:
    call("prctl", LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def guarded(work: Any, *arguments: Any) -> None:
    """Say what went wrong on stderr, which is what the outside goes by."""
    try:
        work(*arguments)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the program must not start
        os.write(2, f"{error}".encode())
        os._exit(1)


def main() -> None:
    os.umask(0o022)
    job = json.loads(sys.stdin.buffer.read())
    if job["result"] != RESULT:
        os.dup2(job["result"], RESULT)
        os.close(job["result"])
    guarded(namespaces)
    guarded(end_with_parent)  # only now: new rights forget it
    if os.getppid() != job["parent"]:  # gone before
        os._exit(1)
    child = os.fork()
    if child == 0:
        guarded(first, job)
    for end in (1, 2, RESULT):
        os.close(end)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) % 256)


if __name__ == "__main__":
    main()
