#!/usr/bin/env python3
"""The examples do what they say, and README shows the first one as it is.

Usage: examples_test.py PATH-OF-GET PATH-OF-EMBED PATH-OF-MOORING-ORIGIN
"""

import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
GET, EMBED, ORIGIN = sys.argv[1:4]
del sys.argv[1:4]

from mooring_case import Origin, pattern  # noqa: E402


class FirstExample(unittest.TestCase):
    def test_is_the_one_of_the_readme(self):
        source = (ROOT / "examples" / "get.c").read_text()
        shown = re.search(r"```c\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        self.assertEqual(shown.group(1), source)
        self.assertLess(source.count("\n"), 25)

    def test_fetches(self):
        with Origin(ORIGIN) as origin:
            for size in (0, 1, 70000):
                body = subprocess.run([GET, origin.url(f"/bytes/{size}")], check=True, timeout=30,
                                      stdout=subprocess.PIPE).stdout
                self.assertEqual(body, pattern(size))
            port = origin.port
        failed = subprocess.run([GET, f"http://127.0.0.1:{port}/"], check=False, timeout=60,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertNotEqual(failed.returncode, 0)
        self.assertIn(b"connect", failed.stderr)


class Embedding(unittest.TestCase):
    def test_is_the_one_of_threading_md(self):
        shown = re.search(r"```c\n(.*?)```", (ROOT / "docs" / "threading.md").read_text(), re.DOTALL)
        self.assertIn(shown.group(1), (ROOT / "examples" / "embed.c").read_text())

    def test_one_thread_drives_everything(self):
        with Origin(ORIGIN) as origin:
            done = subprocess.run([EMBED, origin.url("/bytes/70000")], check=True, timeout=30,
                                  stdout=subprocess.PIPE).stdout
        self.assertEqual(done, b"MOOR_OK, 70000 bytes\n")


unittest.main()
