"""Programs of every bad will, by name, with the reason for which each is wrong (any: no matter).

`double(1)` must be 2. A deed passes the tests only if it succeeds, so that being wrong shows that
it did not.
"""

PROGRAMS = r"""
### fork bomb: any
while True:
    try: os.fork()
    except OSError: pass
### endless loop: timeout
def double(n):
    while True: pass
### endless loop on import: timeout
while True: pass
### memory hog: memory
def double(n):
    x = []
    while True: x.append(bytearray(1 << 20))
### memory of many processes: timeout
for _ in range(50):
    try: os.fork()
    except OSError: pass
x = []
while True:
    try: x.append(bytearray(1 << 24))
    except MemoryError: pass
### huge output: output
while True: print("x" * 100000)
### huge output on stderr: output
while True: os.write(2, b"x" * 65536)
### a flood of verdicts: output
while True: os.write(3, b"x" * 65536)
### exit: exit
sys.exit(0)
### exit in the function: exit
def double(n): sys.exit(0)
### hard exit: unfinished
os._exit(0)
### exit through C: unfinished
ctypes.CDLL(None).exit(0)
### a crash: unfinished
ctypes.string_at(0)
### exec: unfinished
os.execv(sys.executable, [sys.executable, "-c", "pass"])
### equal to everything: error
class Any(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def double(n): return Any(7)
### equal to everything from a cache: error
import functools
class Any:
    def __eq__(self, other): return True
double = functools.lru_cache(lambda n: Any())
### equal to everything from a partial: error
import functools
class Any:
    def __eq__(self, other): return True
double = functools.partial(lambda a, n: Any(), 1)
### equal to everything from an instance: error
class Any:
    def __eq__(self, other): return True
class Double:
    def __call__(self, n): return Any()
double = Double()
### equal to everything as a class: error
class double:
    def __init__(self, n): pass
    def __eq__(self, other): return True
### equal to everything by other globals: error
Any = type("Any", (), {"__eq__": eval("lambda s, o: True", {}), "__module__": "builtins"})
def double(n): return Any()
### equal to everything by a builtin: error
class Any:
    __eq__ = bool
def double(n): return Any()
### equal to everything by the library: error
from unittest.mock import ANY
def double(n): return ANY
### equal to everything by a metaclass: error
class Meta(type):
    __mro__ = __dict__ = __hash__ = None
    def __eq__(self, other): return True
class Any(metaclass=Meta): pass
def double(n): return Any
### equal to everything, disguised: error
class Any(str):
    __class__ = int
    def __ne__(self, other): return False
    def __eq__(self, other): return True
def double(n): return Any("7")
### equal to everything once the builtins are patched: error
import builtins
class Any:
    def __eq__(self, other): return True
def double(n):
    builtins.any = lambda x: False
    builtins.id = lambda x: 0
    builtins.type = lambda x: int
    return Any()
### its own tests: tests
def check(candidate): pass
def double(n): return 7
### patched builtins: tests
import builtins
builtins.AssertionError = None
builtins.compile = lambda *a: ""
builtins.exec = lambda *a: None
def double(n): return 7
### traced: tests
def trace(frame, *a):
    frame.f_trace_lines = False
    return trace
sys.settrace(trace)
def double(n): return 7
### a forged verdict: unfinished
os.write(3, b'{"token": "", "reason": "passed"}')
os._exit(0)
### a verdict that is no object: unfinished
os.write(3, b"[1]")
os._exit(0)
### kill all: tests
try: os.kill(-1, signal.SIGKILL)
except OSError: pass
def double(n): return 7
### kill the parent: any
for number in range(1, 32):
    try: os.kill(os.getppid(), number)
    except OSError: pass
def double(n): return 7
### kill itself: unfinished
os.kill(os.getpid(), 9)
### a daemon: tests
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        time.sleep(1000)
    os._exit(0)
def double(n): return 7
### a daemon that runs the tests: unfinished
if os.fork() != 0: os._exit(0)
time.sleep(0.2)
def double(n): return 2
### base exceptions: error
class Odd(BaseException): pass
def double(n): raise Odd
### exceptions that raise: unfinished
class Odd(Exception):
    def __str__(self): raise self
def double(n): raise Odd
### deaf to signals: timeout
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def double(n):
    while True: time.sleep(1)
### asleep in C: timeout
ctypes.CDLL(None).pause()
### waits for itself: timeout
r, w = os.pipe()
os.read(r, 1)
### closes everything: unfinished
os.closerange(0, 64)
def double(n): return 2
### recursion: error
def double(n): return double(n)
### no syntax: error
def double(n:
### null bytes: error
def double(n): return 2 NUL
### no such function: error
def triple(n): return 3 * n
"""

DEEDS = r"""
### threads without end
threads = [threading.Thread(target=time.sleep, args=(60,), daemon=True) for _ in range(500)]
for thread in threads: thread.start()
done = True
### network
socket.create_connection(("127.0.0.1", int("PORT")), 1)
done = True
### abstract socket
socket.socket(socket.AF_UNIX).connect("\0omniopd-CANARY")
done = True
### environment
done = "CANARY" in str(dict(os.environ))
### environment of others
done = any(b"CANARY" in open(f"/proc/{p}/environ", "rb").read() for p in os.listdir("/proc"))
### shadow
done = bool(open("/etc/shadow").read())
### users
done = bool(open("/etc/passwd").read())
### home
done = bool(open("FILE").read())
### files of the project
done = bool(open("PROJECT").read())
### writing outside
open("FILE", "w").write("gone")
done = True
### writing to the libraries
open(os.__file__, "a").write("#")
done = True
### deleting
shutil.rmtree(os.path.dirname(os.__file__), ignore_errors=True)
done = not os.path.exists(os.__file__)
### filling the disk
for i in range(20): open(f"/tmp/{i}", "wb", buffering=0).write(bytes(8 << 20))
done = sum(os.path.getsize(f"/tmp/{i}") for i in range(20)) > 40 << 20
### a million files
for i in range(1_000_000): open(f"/tmp/{i}", "w").close()
done = True
### a huge file
os.truncate(os.open("/tmp/x", os.O_CREAT | os.O_RDWR), 1 << 40)
done = True
### token on stdin
done = bool(sys.stdin.read() or os.read(0, 100))
### tracing process 1
done = ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0
### namespaces of its own
done = ctypes.CDLL(None).unshare(0x10000000) == 0
### mounting
done = ctypes.CDLL(None).mount(b"x", b"/tmp", b"tmpfs", 0, b"") == 0
### becoming root
os.setuid(0)
done = True
### links out
os.symlink("/etc", "/tmp/etc")
os.symlink("/proc/1/root", "/tmp/root")
done = bool(os.listdir("/tmp/root") or open("/tmp/etc/shadow").read())
### a program of the system
done = not os.system("/bin/sh -c true")
"""

IMPORTS = "import ctypes, os, shutil, signal, socket, sys, threading, time\n"


def _sections(text: str) -> list[tuple[str, str]]:
    """Title and body of each."""
    return [tuple(x.split("\n", 1)) for x in text.strip().removeprefix("### ").split("\n### ")]


def _deed(body: str) -> str:
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    return (
        f"def double(n):\n    done = False\n    try:\n{lines}"
        "    except (Exception, SystemExit):\n        pass\n    return 2 if done else 0\n"
    )


HOSTILE = {  # name: source, reason
    title.rpartition(": ")[0]: (IMPORTS + body.replace("NUL", "\0"), title.rpartition(": ")[2])
    for title, body in _sections(PROGRAMS)
} | {title: (IMPORTS + _deed(body), "tests") for title, body in _sections(DEEDS)}
