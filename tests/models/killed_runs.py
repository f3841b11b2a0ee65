"""Runs scripts that kill themselves, in processes of their own that need not load torch again.

A server (multiprocessing's forkserver) loads torch, transformers and the training room once and
does nothing else; each script runs in a fork of it. Loading costs four seconds of a core, which a
new Python would pay for each script. Left out: what a script does (the tests that hold it).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
LOADED = ["loyal.models.tuning", "loyal.models.train", "transformers.models.llama.modeling_llama"]


def killed(script: str, said: Path, *arguments: object) -> None:
    """Run a script's text until it sends itself SIGKILL; `sys.argv[1:]` are the arguments.

    The script sees this process's environment and `sys.path`; what it writes goes to the file
    `said`. AssertionError, with the end of that file, where it ends in any other way.
    """
    SERVER.set_forkserver_preload(LOADED)
    given = (script, str(said), [str(one) for one in arguments], dict(os.environ))
    child = SERVER.Process(target=_run, args=given)
    child.start()
    child.join(timeout=600)
    code = child.exitcode
    child.kill()
    child.join()
    assert code == -signal.SIGKILL, (code, said.read_text()[-3000:])


def _run(script: str, said: str, arguments: list[str], environment: Mapping[str, str]) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
