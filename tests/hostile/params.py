"""params.yaml: what YAML itself has to say, and what the blocks do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.project import TEXT, put, replaced
from tests.hostile.row import Row

LINES = TEXT.count("\n") + 1  # the number of one that follows
CHECK = ["omniopd", "plan", "--check"]
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 7)
)
HOSTED = "  api: {kind: openai_compatible, base_url: 'http://127.0.0.1:9/v1', model: MODEL}\n"


def row(
    name: str, text: str | bytes | Callable[[], str], found: str, command: list[str] = CHECK
) -> Row:
    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder, text() if callable(text) else text)
        return command

    return Row(f"params: {name}", make, found, r"^data/plan\.ok$" if not found else r"$^")


def edit(name: str, old: str, new: str, found: str) -> Row:
    return row(name, replaced(old, new), found)


def hosted(name: str, model: str, found: str) -> Row:
    """A teacher behind HTTP, of this model."""
    teacher = HOSTED.replace("MODEL", model)
    text = replaced("  carries: {kind", teacher + "  carries: {kind")
    return row(name, text, found)


def other(name: str, make: Callable[[Path], None], found: str) -> Row:
    """Something else in the place of the file."""

    def made(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        (folder / "params.yaml").unlink()
        make(folder / "params.yaml")
        return CHECK

    return Row(f"params: {name}", made, found)


WHOLE = [
    row("crlf", TEXT.replace("\n", "\r\n"), ""),
    row("bom", b"\xef\xbb\xbf" + TEXT.encode(), ""),
    row("no end of line", TEXT.rstrip(), ""),
    row("comments in every script", TEXT + "# Öl, 油, 🦄, \u202e\n", ""),
    row("a document mark", "---\n" + TEXT + "...\n", ""),
    row("anchors that are used well", replaced("lr: 5.0e-3", "lr: &lr 5.0e-3"), ""),
    row("json in part", replaced("max_grad_norm: 1.0", '"max_grad_norm": 1.0'), ""),
    row("empty", "", "params.yaml: found nothing, wanted the blocks"),
    row("blank", "\n \n# nothing\n", "found nothing"),
    row("a list", "- experiment\n- arms\n", r"found \['experiment', 'arms'\], wanted the blocks"),
    row("a word", "experiment", "found 'experiment', wanted"),
    row("a number", "3", "found 3, wanted"),
    row("null", "null", "found nothing"),
    row("latin-1", TEXT.replace("# The", "# Für the").encode("latin-1"), r"line 1: found .*xfcr"),
    row("latin-1 far down", (TEXT + "# Öl\n").encode("latin-1"), rf"line {LINES}: found the bytes"),
    row("utf-16", TEXT.encode("utf-16"), "found the bytes .*UTF-8"),
    row("nul bytes", TEXT + "\0\0\n", "x0000"),
    row("an escape in a comment", TEXT + "# \x1b[31m\n", "x001b"),
    row("binary", bytes(range(256)), "found the bytes"),
    row("gzip", b"\x1f\x8b\x08\0" + bytes(50), "found the bytes"),
    row("conflict", f"<<<<<<< HEAD\n{TEXT}=======\n{TEXT}>>>>>>> main\n", "<<<<<<< HEAD.*conflict"),
    row("half a conflict", TEXT + ">>>>>>> main\n", "found '>>>>>>> main'"),
    row("two documents", TEXT + "---\n" + TEXT, "another document"),
    row("a tab", replaced("  student: sloppy", "\tstudent: sloppy"), r"line 4.*\\t"),
    row("indented wrongly", replaced("  rounds: 1", "   rounds: 1"), "line 5"),
    row("a bracket left open", replaced("seeds: [0]", "seeds: [0"), "line 7.*expected"),
    row("a quote left open", replaced("student: sloppy", "student: 'sloppy"), "quoted scalar"),
    row("a key twice", replaced("  rounds: 1", "  rounds: 1\n  rounds: 2"), 'duplicate key "round'),
    row("a block twice", TEXT + "\nforks: {scheduler: uniform}\n", 'duplicate key "forks"'),
    row("an alias of nothing", replaced("rounds: 1", "rounds: *one"), "undefined alias 'one'"),
    row("an alias of itself", replaced("seeds: [0]", "seeds: &s [*s]"), r"line 6: found \*s within"),
    row("a mapping in itself", replaced("  omniopd: {}", "  omniopd: &o {a: *o}"), "within itself"),
    row("an alias bomb", BOMB + TEXT, "over 100,000 values with its aliases"),
    row("a merge bomb", BOMB + "x: {<<: {y: *a6}}\n", "over 100,000 values"),
    row("a merge of no mapping", replaced("rounds: 1", "<<: 3\n  rounds: 1"), "for merging"),
    row("3,000 nested lists", replaced("seeds: [0]", f"seeds: {'[' * 3000}{']' * 3000}"), "over 50 "),
    row("3,000 nested mappings", "{a: " * 3000 + "1" + "}" * 3000, "over 50 levels"),
    row("3,000 indented lists", "a: " + "- " * 3000 + "x\n", "over 50 levels|line 1"),
    row("a python object", replaced("rounds: 1", "rounds: !!python/object/apply:os.getcwd []"), "!!|python/object"),
    row("a tag of its own", replaced("rounds: 1", "rounds: !mine 1"), "the tag '!mine'"),
    row("a set", replaced("seeds: [0]", "seeds: !!set {0}"), "the tag 'tag:yaml.org,2002:set'"),
    row("binary data", replaced("student: sloppy", "student: !!binary c2xvcHB5"), "2002:binary"),
    row("an ordered mapping", replaced("  omniopd: {}", "  omniopd: !!omap [a: 1]"), "2002:omap"),
    row("a tag that does not fit", replaced("rounds: 1", "rounds: !!int one"), "one"),
    row("a version of no YAML", "%YAML 9.9\n---\n" + TEXT, "version"),
    row("a complex key", TEXT + "? [a, b]\n: c\n", r"the key \('a', 'b'\)"),
    row("a number as a key", TEXT + "7: {}\n", "the key 7, which is no text"),
    row("a date as a key", TEXT + "2026-01-01: {}\n", "datetime.date"),
    row("null as a key", TEXT + "~: {}\n", "the key None"),
    row("true as a key", replaced("  omniopd: {}", "  omniopd: {}\n  true: {}"), "the key True"),
    row("a key with an escape", TEXT + '"a\\e[2Jb": {}\n', r"a key: found '\\x1b'"),
    row("half a surrogate pair", replaced("student: sloppy", 'student: "a\\ud800"'), r"ud800"),
    row("a very long key", TEXT + "k" * 5000 + ": 1\n", f"line {LINES}"),
    row("a very long value", replaced("student: sloppy", "student: " + "s" * 50_000), "found 'sss"),
    row("500 unknown keys", TEXT + "".join(f"k{i}: 1\n" for i in range(500)), "k0: unknown.*49[0-9] more"),
]  # fmt: skip
SCALARS = [
    edit("inf", "lr: 5.0e-3", "lr: .inf", r"pretrain\.models\.careful\.lr: found \.inf, wanted"),
    edit("minus inf", "beta: 0.1", "beta: -.inf", r"train\.beta: found \.inf"),
    edit("nan", "alpha: 1.0", "alpha: .nan", r"prior\.alpha: found \.nan"),
    edit("1e999", "max_grad_norm: 1.0", "max_grad_norm: 1e999", r"train\.max_grad_norm: found \.inf"),
    edit("inf in an arm", "grpo: {train: {", "grpo: {train: {beta: .inf, ", r"arms\.grpo\.train\.beta: found"),
    edit("5,000 digits", "rounds: 1", "rounds: " + "9" * 5000, "a number of 5000 digits"),
    edit("5,000 hexadecimal digits", "rounds: 1", "rounds: 0x" + "f" * 5000, "experiment.rounds: found"),
    edit("20 digits", "seed: 7", "seed: 99999999999999999999", "20 digits"),
    edit("a date", "student: sloppy", "student: 2026-01-01", "found '2026-01-01', wanted"),
    edit("a time", "student: sloppy", "student: 2026-01-01T10:00:00Z", "found '2026-01-01 10:00"),
    edit("a date of no calendar", "student: sloppy", "student: 2026-99-99", "month must be|2026-99"),
    edit("true as a number", "rounds: 1", "rounds: true", r"rounds: found True, wanted"),
    edit("a number as true", "per_seed: true", "per_seed: 1", r"per_seed: found 1, wanted"),
    edit("yes as true", "per_seed: true", "per_seed: yes", r"per_seed: found 'yes', wanted"),
    edit("a number in quotes", "rounds: 1", 'rounds: "1"', "rounds: found '1'"),
    edit("a float for a count", "rounds: 1", "rounds: 1.5", r"rounds: found 1\.5"),
    edit("zero rounds", "rounds: 1", "rounds: 0", "rounds: found 0, wanted.*greater"),
    edit("rounds below zero", "rounds: 1", "rounds: -1", "rounds: found -1"),
    edit("null rounds", "rounds: 1", "rounds:", "rounds: found None"),
    edit("a list for a number", "rounds: 1", "rounds: [1]", r"rounds: found \[1\]"),
    edit("a mapping for a number", "rounds: 1", "rounds: {a: 1}", r"rounds: found \{'a': 1\}"),
    edit("a number for a list", "seeds: [0]", "seeds: 0", "seeds: found 0, wanted"),
    edit("no seeds", "seeds: [0]", "seeds: []", "no arm or no seed"),
    edit("a seed of true", "seeds: [0]", "seeds: [true]", "found True"),
    edit("5,001 seeds", "seeds: [0]", f"seeds: {list(range(5001))}", "2 arms x 5001 seeds x 1 rounds"),
    edit("no arms", "arms: [omniopd, shuffled-scores]", "arms: []", "no arm or no seed"),
    edit("an arm in capitals", "  sft: {", "  SFT: {", r"arms\.SFT.*wanted"),
    edit("an arm with a slash", "  sft: {", "  ../sft: {", r"arms\.\.\./sft"),
    edit("an arm of null", "  omniopd: {}", "  omniopd:", r"arms\.omniopd: found None"),
    edit("an arm of a list", "  omniopd: {}", "  omniopd: [1]", r"arms\.omniopd: found \[1\]"),
    edit("an arm's block of null", "  omniopd: {}", "  omniopd: {train: }", "arm omniopd: train: found None"),
    edit("an arm's block of a word", "  omniopd: {}", "  omniopd: {teach: x}", "arm omniopd: teach: found 'x'"),
    edit("an arm with a near miss", "  omniopd: {}", "  omniopd: {train: {betta: 1}}", r"train\.betta: unknown key.*Is it beta"),
    edit("a block with a near miss", "\nforks: {scheduler", "\nfork: {scheduler", "fork: unknown key.*Is it forks"),
    edit("a key with a near miss", "max_forks: 3", "max_fork: 3", r"forks\.max_fork: unknown key"),
    edit("a block that is missing", "score: {metric: edit, source: similarity, allow_flat: true}\n", "", "score: missing"),
    edit("a key that is missing", "epoch: 0\n", "", r"teach\.epoch: missing"),
    edit("a block of null", "score: {metric: edit, source: similarity, allow_flat: true}", "score:", "score: found None"),
    edit("runtime of null", "runtime: {threads: 1, device: cpu, batch_tokens: 8192}", "runtime:", "runtime: found None"),
    edit("runtime of a list", "runtime: {threads: 1, device: cpu, batch_tokens: 8192}", "runtime: [1]", r"runtime: found \[1\]"),
    edit("a task that is not there", "task: arithmetic", "task: nosuch", "nosuch.*wanted"),
    edit("a task with dots", "task: arithmetic", "task: ../../x", r"'\.\./\.\./x'"),
    edit("a task of a number", "task: arithmetic", "task: 3", "task.*found 3"),
    edit("a task of a list", "task: arithmetic", "task: [math]", "task.*found"),
    edit("prepare of a word", "prepare: {task: arithmetic, seed: 7, digits: 2, train: 40, dev: 8, test: 24}", "prepare: math", "prepare.*found 'math'"),
    edit("a kind of no teacher", "carries: {kind: local", "carries: {kind: psychic", r"teachers\.carries.*psychic"),
    edit("a teacher without a kind", "carries: {kind: local, model", "carries: {model", r"teachers\.carries"),
    edit("a device of no kind", "device: cpu", "device: toaster", "runtime.device: found 'toaster', wanted"),
    edit("an engine of no kind", "engine: hf", "engine: gguf", r"rollout\.engine: found 'gguf'"),
    edit("shares above one", "drop_carry: 0.6", "drop_carry: 1.5", r"drop_carry: found 1\.5"),
    edit("betas of one", "betas: [0.9, 0.98]", "betas: [0.9]", r"betas\.1: missing"),
    edit("betas above one", "betas: [0.9, 0.98]", "betas: [0.9, 1.5]", r"betas.*found 1\.5"),
    edit("heads that do not divide", "hidden: 32, layers: 2, heads: 2", "hidden: 32, layers: 2, heads: 5", r"init.*'heads': 5.*wanted"),
    edit("a model of itself", "init: {kind: model, name: careful}", "init: {kind: model, name: careless}", r"careless\.init\.name"),
    edit("a chunk longer than a response", "chunk_tokens: 6", "chunk_tokens: 600", "chunk_tokens: found 600"),
    edit("responses longer than the context", "max_new_tokens: 20", "max_new_tokens: 256", "found 256, wanted less than the context"),
    edit("keep of no form", "rounds: 1", "rounds: 1\n  keep_checkpoints: every:0", "keep_checkpoints: found 'every:0'"),
    edit("a claim of nothing", "rounds: 1", "rounds: 1\n  claims: {sft: -5}", r"claims\.sft: found -5"),
    edit("a metric of no name", "metric: edit", "metric: bleu", "found 'bleu', wanted one of"),
    hosted("a model with control characters", '"gpt\\e[31m\\a"', r"teachers\.api\.model: found"),
    hosted("a model with a line end", '"gpt\\n4"', r"model: found 'gpt\\+n4', wanted"),
    hosted("a model of blanks", '"  "', r"model: found ' ', wanted"),
    hosted("an empty model", '""', r"model: found '', wanted"),
    hosted("a model of 100,000 signs", "m" * 100_000, r"model: found 'mmm"),
    edit("a URL of no scheme", "  carries: {kind", HOSTED.replace("http://127.0.0.1:9/v1", "localhost") + "  carries: {kind", r"base_url: found 'localhost', wanted"),
    hosted("a price below zero", "m, price: {input: -1, output: 1}", r"price\.input: found -1"),
    hosted("a time of inf", "m, timeout_seconds: .inf", r"timeout_seconds: found \.inf"),
    hosted("a key in the place of its name", "m, api_key_env: 'sk-ab cd'", r"api_key_env: found no such name"),
]  # fmt: skip
PLACES = [
    other("a folder", lambda path: path.mkdir(), "params.yaml: found 'Is a directory', wanted a f"),
    other("a link to itself", lambda path: path.symlink_to(path), "symbolic links|not found"),
    other("a link to nothing", lambda path: path.symlink_to("gone"), "params.yaml: not found"),
    other("not there", lambda path: None, "params.yaml: not found. Run this in"),
    other("no-right to read", lambda p: (p.write_text(TEXT), p.chmod(0))[0] and None, "'Permission denied', wanted the right"),
]  # fmt: skip
ROWS = [*WHOLE, *SCALARS, *PLACES]
