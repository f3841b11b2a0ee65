"""What runs inside the sandbox: one process, one source, some questions, one answer a line.

It runs as a script of its own and imports the standard library alone. Before the source is run, the
process takes limits on itself (CPU, memory, files), leaves the network (a namespace of its own,
where the system lets it), and holds the source to a small part of Python: `refused` names each
rule. After that an audit hook refuses to open files, sockets and processes. What this does not
hold: an audit hook and a list of names stop mistakes and plain malice, but not somebody who breaks
the interpreter itself (PEP 578); run sources of unknown authors in a container as well. Without a
namespace the hook alone keeps the network out; `sandbox.Ran.network` says which it was.

Left out: starting it and reading its answers (`sandbox`).
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SOURCE_NAME = "<source>"

MODULES = frozenset(
    {
        *("__future__", "bisect", "calendar", "collections", "copy", "dataclasses", "datetime"),
        *("decimal", "enum", "fractions", "functools", "heapq", "itertools", "json", "math"),
        *("operator", "random", "re", "statistics", "string", "textwrap", "typing", "unicodedata"),
    }
)
"""What a source may import: no files, no clock, no network."""

NAMES = frozenset(
    {
        *("open", "eval", "exec", "compile", "input", "breakpoint", "globals", "locals", "vars"),
        *("getattr", "setattr", "delattr", "memoryview", "help", "exit", "quit"),
    }
)
"""Builtins that a source may not name."""

GETTERS = frozenset(
    {
        *("attrgetter", "methodcaller", "get_field", "get_type_hints", "ForwardRef"),
        *("make_dataclass", "singledispatch", "singledispatchmethod", "SystemRandom"),
    }
)
"""Names of the permitted modules that would find what rule 4 forbids, or evaluate text."""

CLOCKS = frozenset({"today", "now", "utcnow"})
"""Attributes that read the clock: a reply is to depend on the prompt alone."""

FRAMES = ("f_", "gi_", "cr_", "ag_", "tb_", "co_")
"""Beginnings of attributes that lead to frames and code."""

MOST_TEXT = 4000
"""Characters of one prompt, slot or reply."""
_MOST_REASON = 300
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of <sched.h>
_BARRED = frozenset({"socket", "subprocess", "os", "ctypes", "shutil", "fcntl", "mmap", "open"})
_BARRED_ALONE = frozenset({"sys.addaudithook", "gc.get_objects", "gc.get_referrers"})


def refused(source: str) -> str | None:
    """Which rule the source breaks, with its line; None where it keeps all.

    1. It is Python. 2. It imports from MODULES alone. 3. It names none of NAMES and GETTERS. 4. No
    name that it reads begins with two underscores, leads to a frame, is private to something else
    than `self`, or is another module. 5. It reads no clock.
    """
    try:
        tree = ast.parse(source)  # 1
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it is not Python: {error}"
    for node in ast.walk(tree):
        why = _refused_import(node) or _refused_name(node)
        if why is not None:
            return f"line {getattr(node, 'lineno', 0)}: {why}"
    return None


def _refused_import(node: ast.AST) -> str | None:
    modules: list[str] = []
    inner: list[str] = []
    if isinstance(node, ast.Import):
        modules = [one.name for one in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules, inner = ["." * node.level + (node.module or "")], [one.name for one in node.names]
    for name in modules:
        if name.split(".")[0] not in MODULES:  # 2
            return f"it imports {name}"
    return next((why for name in inner if (why := _refused_attribute(name))), None)


def _refused_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        if node.id in NAMES or node.id.startswith("__"):  # 3, 4
            return f"it uses {node.id}"
    elif isinstance(node, ast.Attribute):
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if not (own and not node.attr.startswith("__")):
            return _refused_attribute(node.attr)
    elif isinstance(node, ast.MatchClass):
        return next((why for name in node.kwd_attrs if (why := _refused_attribute(name))), None)
    return None


def _refused_attribute(name: str) -> str | None:
    other = name in sys.stdlib_module_names and name not in MODULES
    if name.startswith("_") or name.startswith(FRAMES) or name in GETTERS or other:  # 3, 4
        return f"it uses {name}"
    return f"it reads the clock ({name})" if name in CLOCKS else None  # 5


def pattern(template: str, slots: Mapping[str, str]) -> re.Pattern[str]:
    """What prompts of this template look like: case, white space and the end's marks are free.

    `slots` says what a slot may hold, as a regular expression; without, any text. Raises re.error.
    """
    parts = re.split(r"\{(\w+)\}", plain(template))
    found, seen = "", set()
    for index, part in enumerate(parts):
        if index % 2 == 0:
            found += r"\s+".join(re.escape(word) for word in re.split(r"\s+", part))
        else:
            found += f"(?P={part})" if part in seen else f"(?P<{part}>{slots.get(part, '.+?')})"
            seen.add(part)
    return re.compile(found, re.IGNORECASE)


def plain(text: str) -> str:
    """A text without white space around it, and without the marks that end it."""
    return text.strip().rstrip(".?! ")


class Source:
    """A source that was run: its names, and how to ask it."""

    def __init__(self, text: str) -> None:
        module = types.ModuleType("source")  # dataclasses look their module up
        sys.modules["source"] = module
        self.names: dict[str, Any] = vars(module)
        exec(compile(text, SOURCE_NAME, "exec"), self.names)

    def describe(self, ask: Mapping[str, Any]) -> list[Any]:
        """One item: what the source says of itself."""
        slots = self._slots()
        templates = [_whole(str(one)) for one in self._get("TEMPLATES", (list, tuple))]
        for one in templates:
            pattern(one, slots)
        return [
            lambda: {
                "name": _whole(self._get("NAME", str)),
                "version": self._get("VERSION", int),
                "purpose": _whole(" ".join((self.names.get("__doc__") or "").split())),
                "templates": templates,
                "outside": [_whole(str(one)) for one in self._listed("OUTSIDE")],
            }
        ]

    def sample(self, ask: Mapping[str, Any]) -> list[Any]:
        """So many inputs of the domain, from a seed."""
        draw, rng = self._get("sample", None), random.Random(ask["seed"])
        return [lambda: _texts(draw(rng)) for _ in range(ask["count"])]

    def reply(self, ask: Mapping[str, Any]) -> list[Any]:
        """The reply to each input."""
        answer = self._get("reply", None)
        return [lambda one=one: _reply(answer(**one)) for one in ask["inputs"]]

    def read(self, ask: Mapping[str, Any]) -> list[Any]:
        """The reply to each prompt, None where it is outside of the domain."""
        answer = self._get("reply", None)
        read = self.names.get("domain") or self._reader()

        def of(text: str) -> str | None:
            found = read(text)
            return None if found is None else _reply(answer(**_texts(found)))

        return [lambda text=text: of(text) for text in ask["texts"]]

    def call(self, ask: Mapping[str, Any]) -> list[Any]:
        """What each expression is in the source's names, as JSON text with sorted keys."""

        def value(text: str) -> str:
            found = eval(compile(text, "<call>", "eval"), dict(self.names))
            return _written(json.dumps(_plain(found), sort_keys=True))

        return [lambda text=text: value(text) for text in ask["calls"]]

    def _reader(self) -> Callable[[str], dict[str, str] | None]:
        slots = self._slots()
        known = [pattern(str(one), slots) for one in self._get("TEMPLATES", (list, tuple))]

        def read(text: str) -> dict[str, str] | None:
            asked = plain(text)
            found = next((match for one in known if (match := one.fullmatch(asked))), None)
            return None if found is None else found.groupdict()

        return read

    def _slots(self) -> dict[str, str]:
        found = self._get("SLOTS", dict) if "SLOTS" in self.names else {}
        return {str(name): str(one) for name, one in found.items()}

    def _listed(self, name: str) -> Sequence[Any]:
        listed: Sequence[Any] = self._get(name, (list, tuple)) if name in self.names else ()
        return listed

    def _get(self, name: str, kind: Any) -> Any:
        found = self.names.get(name)
        if found is None or (kind is None and not callable(found)):
            raise LookupError(f"it has no {name}")
        if kind is not None and (not isinstance(found, kind) or isinstance(found, bool)):
            raise LookupError(f"its {name} is a {type(found).__name__}")
        return found


def _texts(found: Any) -> dict[str, str]:
    """Slots as text: a reply is a function of what stands in the prompt."""
    if not isinstance(found, dict):
        raise TypeError("an input is a dict of slots")
    texts = {}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise TypeError(f"the slot {name} is neither text nor a whole number")
        texts[str(name)] = _whole(str(value))
    if any(len(one) > MOST_TEXT for one in texts.values()):
        raise ValueError(f"a slot is longer than {MOST_TEXT} characters")
    return texts


def _reply(found: Any) -> str | None:
    if found is not None and not isinstance(found, str):
        raise TypeError(f"reply gave a {type(found).__name__}, not text")
    if found is not None and len(found) > MOST_TEXT:
        raise ValueError(f"a reply is longer than {MOST_TEXT} characters")
    return None if found is None else _whole(found)


def _whole(text: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("a text holds half a character (a lone surrogate)")
    return text


def _plain(value: Any) -> Any:
    """A value of Python's own types, exactly: no subclass can say what it likes to be equal to."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return [_plain(one) for one in value]
    if type(value) is dict and all(type(one) is str for one in value):
        return {name: _plain(one) for name, one in value.items()}
    raise TypeError(f"it gave a {type(value).__name__}, which JSON does not have")


def _written(text: str) -> str:
    if len(text) > MOST_TEXT:
        raise ValueError(f"it gave more than {MOST_TEXT} characters")
    return text


def reason(error: BaseException) -> str:
    """An exception of a source in one line: its line there, its kind, its words."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in (SOURCE_NAME, "<call>"):
            lines.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    words = " ".join(str(error).split())[:_MOST_REASON]
    where = "".join(f" at line {line} of {name.strip('<>')}" for name, line in lines[-1:])
    return f"{type(error).__name__}{where}{': ' + words if words else ''}"


def enclose(limits: Mapping[str, int]) -> str:
    """Take the limits, and leave the network. How: "namespace", or "refused" by the hook alone."""
    import resource

    network = "namespace" if _leave_network() else "refused"
    for name, value in (
        ("RLIMIT_CPU", limits["cpu_seconds"]),
        ("RLIMIT_AS", limits["memory_bytes"]),
        ("RLIMIT_NOFILE", limits["files"]),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),
    ):
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (value, value))
    return network


def _leave_network() -> bool:
    """Whether this process now has a network namespace of its own, with nothing in it."""
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).unshare
    except (ImportError, OSError, AttributeError):
        return False
    return bool(call(_NEW_USER | _NEW_NETWORK) == 0 or call(_NEW_NETWORK) == 0)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: PermissionError for files, sockets, processes and foreign code."""
    if event.split(".")[0] in _BARRED or event in _BARRED_ALONE:
        raise PermissionError(f"a source may not do this: {event}")


def _imported(source: str) -> None:
    """Load what the source imports, before files are refused."""
    for node in ast.walk(ast.parse(source)):
        names: Sequence[str] = ()
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            __import__(name)
            if name == "datetime":
                __import__("_strptime")


def main() -> None:
    """Read the job, answer it. Each line: [true, value], or [false, reason]."""
    job = json.load(sys.stdin)
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)

    def say(good: bool, value: Any) -> None:
        lines.write(json.dumps([good, value]) + "\n")
        lines.flush()

    say(True, enclose(job["limits"]))
    why = refused(job["source"])
    if why is not None:
        return say(False, why)
    try:
        _imported(job["source"])
        sys.addaudithook(_refuse)
        made = Source(job["source"])
    except BaseException as error:
        return say(False, reason(error))
    say(True, None)
    for ask in job["asks"]:
        try:
            items = getattr(made, ask["what"])(ask)
        except BaseException as error:
            return say(False, reason(error))
        for item in items:
            try:
                say(True, item())
            except BaseException as error:
                say(False, reason(error))


if __name__ == "__main__":
    main()
