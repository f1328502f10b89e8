"""What the check-* scripts share: which files there are, and how a violation is reported."""

import argparse
import re
import sys
from pathlib import Path

# Folders of the library. Everything else that holds C is a program, a test or an example.
LIBRARY = {"base", "alloc", "policy", "core", "h1", "h2", "ws", "tls", "proxy", "client",
           "drivers", "observe"}
SKIPPED = {"build", "docs", "man", "cmake"}


def arguments(description, *more):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent,
                        help="the tree to check (default: this one)")
    for name, settings in more:
        parser.add_argument(name, **settings)
    return parser.parse_args()


def sources(root, *suffixes):
    """Every file of the tree with one of these suffixes, as paths relative to the root."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] in SKIPPED or relative.parts[0].startswith("."):
            continue
        if path.suffix in suffixes and path.is_file():
            yield relative


def without_comments_and_strings(text):
    """The code alone, with its line numbers kept: newlines inside what is removed stay."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)

    def blank(match):
        found = match.group(0)
        if found.startswith("/"):
            return " " + "\n" * found.count("\n")
        return found[0] + found[0]

    return token.sub(blank, text)


class Report:
    def __init__(self):
        self.violations = 0

    def fail(self, path, line, message):
        print(f"{path}:{line}: {message}")
        self.violations += 1

    def finish(self, what):
        if self.violations:
            print(f"{self.violations} violations")
            sys.exit(1)
        print(f"{what}: nothing to complain about")
