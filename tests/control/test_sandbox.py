"""The sandbox: what a source may not do, what it may not use up, and that answers come back."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from loyal.control import worker
from loyal.control.sandbox import MOST_SOURCE_BYTES, Limits, Ran, run

ADD = "def reply(a, b):\n    return str(int(a) + int(b))\n"


def replies(source: str, *inputs: dict[str, str], limits: Limits | None = None) -> Ran:
    return run(source, [{"what": "reply", "inputs": list(inputs)}], limits)


def test_answers_come_back_in_order_and_a_bad_one_stops_no_other() -> None:
    ran = replies(ADD, {"a": "1", "b": "2"}, {"a": "x", "b": "2"}, {"a": "40", "b": "2"})
    assert ran.why is None
    assert [one.value for one in ran.answers] == ["3", None, "42"]
    assert ran.answers[1].why is not None
    assert ran.answers[1].why.startswith("ValueError at line 2 of source")


FORBIDDEN = (
    ("import os", "imports os"),
    ("import os.path", "imports os.path"),
    ("from socket import socket", "imports socket"),
    ("from . import x", "imports ."),
    ("from random import _os", "uses _os"),
    ("import re\nre.enum.sys.modules", "uses sys"),
    ("import json\nx = json.codecs", "uses codecs"),
    ("open('x')", "uses open"),
    ("eval('1')", "uses eval"),
    ("x = ().__class__", "uses __class__"),
    ("x = __builtins__", "uses __builtins__"),
    ("match 1:\n    case int(__class__=c):\n        pass", "uses __class__"),
    ("import operator\noperator.attrgetter('x')", "uses attrgetter"),
    ("from operator import attrgetter as a", "uses attrgetter"),
    ("import string\nstring.Formatter().get_field('0.x', (), {})", "uses get_field"),
    ("x = (i for i in ()).gi_frame", "uses gi_frame"),
    ("from datetime import date\ndate.today()", "reads the clock"),
    ("def f(:", "not Python"),
    ("x = '\x00'", "not Python"),
)


@pytest.mark.parametrize(("source", "why"), FORBIDDEN)
def test_a_source_that_reaches_out_is_refused_before_it_runs(source: str, why: str) -> None:
    ran = run(source, [])
    assert ran.answers == ()
    assert ran.why is not None
    assert why in ran.why
    assert "\n" not in ran.why


def test_ordinary_python_is_permitted() -> None:
    source = """
from __future__ import annotations
import math, re
from collections import Counter, namedtuple
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum

Point = namedtuple("Point", "x y")

class Color(Enum):
    RED = 1

@dataclass(frozen=True)
class Fee:
    cents: int
    def __add__(self, other: Fee) -> Fee:
        return Fee(self.cents + other.cents)
    def _text(self) -> str:
        return str(self.cents)
    def text(self) -> str:
        return self._text()

def reply(day: str) -> str:
    when = datetime.strptime(day, "%Y-%m-%d").date()
    total = (Fee(2) + Fee(3)).text()
    return f"{(when - date(2024, 1, 1)).days} {total} {Decimal('1.10')} {Counter('aab')['a']}"
"""
    ran = replies(source, {"day": "2024-03-01"})
    assert (ran.why, ran.answers[0].value) == (None, "60 5 1.10 2")


PROBE = """
import sys, os, json
sys.path.insert(0, {folder!r})
import worker
worker.enclose({{"cpu_seconds": 5, "memory_bytes": 1 << 28, "files": 16}})
sys.addaudithook(worker._refuse)
try:
    {act}
    print("done")
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    "act",
    [
        "open('/etc/hostname')",
        "open('new', 'w')",
        "os.listdir('.')",
        "os.system('true')",
        "os.fork()",
        "__import__('socket').socket()",
        "__import__('subprocess').run(['true'])",
        "__import__('ctypes').CDLL(None)",
    ],
)
def test_the_second_wall_holds_where_the_first_is_passed(act: str, tmp_path: Path) -> None:
    """The same acts, by a source that no list of names looked at."""
    import subprocess

    script = PROBE.format(folder=str(Path(worker.__file__).parent), act=act)
    loaded = "import socket, subprocess, ctypes\n" + script
    command = [sys.executable, "-S", "-B", "-c", loaded]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "PermissionError", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_namespace_has_no_way_to_this_machine(tmp_path: Path) -> None:
    """Where the system gives namespaces, even a socket that could be made reaches nothing."""
    import subprocess

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = (
            f"import sys, socket\nsys.path.insert(0, {str(Path(worker.__file__).parent)!r})\n"
            "import worker\nleft = worker._leave_network()\n"
            f"try:\n    socket.create_connection(('127.0.0.1', {port}), 2)\n    print(left, True)\n"
            "except OSError:\n    print(left, False)\n"
        )
        command = [sys.executable, "-S", "-B", "-c", script]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said in (["True", "False"], ["False", "True"])


def test_time_memory_and_size_are_bounded() -> None:
    endless = "def reply(a):\n    while True:\n        pass\n"
    begun = time.monotonic()
    ran = replies(endless, {"a": "1"}, limits=Limits(cpu_seconds=1, seconds=300))
    assert ran.answers == ()
    assert ran.why == "it used more than 1 CPU seconds"
    assert time.monotonic() - begun < 300
    ran = replies(endless, {"a": "1"}, limits=Limits(cpu_seconds=60, seconds=1))
    assert ran.why == "it took more than 1 seconds"
    ran = replies("def reply(a):\n    return str(len([0] * 10**9))\n", {"a": "1"})
    assert ran.answers[0].why is not None
    assert "MemoryError" in ran.answers[0].why
    ran = replies("def reply(a):\n    return 'x' * 10**7\n", {"a": "1"})
    assert ran.answers[0].why is not None
    assert "longer than" in ran.answers[0].why
    assert "over" in (run("#" * (MOST_SOURCE_BYTES + 1), []).why or "")


def test_the_document_names_the_limits() -> None:
    text = (Path(__file__).parents[2] / "docs" / "control.md").read_text()
    limits = Limits()
    assert f"{limits.cpu_seconds} CPU seconds, {limits.seconds} seconds by the" in text
    assert f"{limits.memory_bytes >> 20} MiB" in text


def test_what_a_source_prints_is_no_answer() -> None:
    source = "print('[true, \"forged\"]')\ndef reply(a):\n    print('x')\n    return 'honest'\n"
    ran = replies(source, {"a": "1"})
    assert [one.value for one in ran.answers] == ["honest"]


def test_a_source_sees_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYAL_PASSPHRASE", "planted-secret")
    seen = replies("import json\ndef reply(a):\n    return json.dumps(sorted(dir()))\n", {"a": "1"})
    assert "planted" not in str(seen)
    assert os.environ["LOYAL_PASSPHRASE"] == "planted-secret"


def test_an_exit_is_an_answer_and_not_an_end() -> None:
    ran = replies("def reply(a):\n    raise SystemExit(0)\n", {"a": "1"}, {"a": "2"})
    assert [one.why is None for one in ran.answers] == [False, False]
    assert (run("raise KeyboardInterrupt", []).why or "").startswith("KeyboardInterrupt")
