"""Requests at random against the platform, and bytes at random against the codecs: what breaks.

Runs the tests' own fuzz (tests/app/test_platform_fuzz.py) with more requests a route, and the
property tests of the codecs. The row goes to results/protocol.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rows import Row, put, show

NAME = "protocol"
ROOT = Path(__file__).parent.parent
CODECS = ("ground/test_encoding.py", "ground/test_signing.py", "protocol/test_permission.py",
          "protocol/test_note.py", "protocol/test_log_checkpoint.py", "protocol/test_log_proof.py",
          "protocol/test_forms.py", "protocol/test_commands.py")  # fmt: skip


def run(examples: int) -> Row:
    """Run them all; the row counts tests that found something."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [
            ROOT / "tests/app/test_platform_fuzz.py",
            *(ROOT / "tests" / one for one in CODECS),
        ]
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *map(str, files)],
            cwd=ROOT, env={**os.environ, "LOYAL_FUZZ_EXAMPLES": str(examples)}, check=False,
        )  # fmt: skip
        suites = list(ElementTree.parse(report).iter("testsuite"))
    count = {
        name: sum(int(one.get(name, 0)) for one in suites)
        for name in ("tests", "failures", "errors")
    }
    return Row(
        "fuzz", "tests in which a request or bytes at random broke or changed something",
        count["failures"] + count["errors"], "", 0, "at_most",
        f"{examples} valid and as many invalid requests for each of the 15 routes of the OpenAPI "
        f"page (schemathesis), and the codecs' property tests (hypothesis): {count['tests']} tests",
    )  # fmt: skip


def main() -> None:
    """Measure, write the row, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    put(NAME, [run(parser.parse_args().examples)])
    show(NAME)


if __name__ == "__main__":
    main()
