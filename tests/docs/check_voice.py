"""Check how the project speaks: `python tests/docs/check_voice.py [FILE ...]`, a part of `make lint`.

Docstrings begin with a verb or name their subject; ruff's D401 checks the imperative mood of functions. This check adds
the openings and the private words that ruff does not know, in docstrings, comments, strings and Markdown.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

OPENINGS = re.compile(r"(What|Who|Whose|Whom|Whether|Why|Of|That)\b")
"""No docstring begins with these."""
FUNCTION_OPENINGS = re.compile(r"(How|Where|When|A|An|The|One|All|It|Its|For|As|By|In|To|From|With|Those|This|They)\b")
"""No docstring of a function or method begins with these either. Properties and tests may begin with a noun."""
PRIVATE_WORDS = re.compile(
    r"\b(told|anew|nobody|whoever|beside|strange|goes on|the wall|a word)\b",
    re.IGNORECASE,
)
REMEDY = "Say it plainly: verb first, the field's term, a named subject (CONTRIBUTING.md, Voice)."


def check_python(path: Path) -> Iterator[str]:
    """Yield a line for each docstring, comment or string of a Python file that speaks in the old voice."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _check_docstring(path, node)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from _check_words(path, token.start[0], token.string)


def _check_docstring(
    path: Path, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[str]:
    docstring = ast.get_docstring(node)
    if docstring is None:
        return
    line = 1 if isinstance(node, ast.Module) else node.lineno
    found = OPENINGS.match(docstring)
    if (
        not found
        and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not _may_begin_with_a_noun(path, node)
    ):
        found = FUNCTION_OPENINGS.match(docstring)
    if found:
        yield f"{path}:{line}: docstring begins with {found[1]!r}"


def _may_begin_with_a_noun(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return "tests" in path.parts or bool(decorators & {"property", "cached_property", "overload"})


def check_markdown(path: Path) -> Iterator[str]:
    """Yield a line for each private word in the prose of a Markdown file; code is left out."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield from _check_words(path, number, re.sub(r"`[^`]*`", "", line))


def _check_words(path: Path, first: int, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), first):
        for found in PRIVATE_WORDS.finditer(line):
            yield f"{path}:{number}: {found[1]!r}: {line.strip()[:100]}"


def main() -> int:
    """Check the files named, or all tracked ones; return 1 if one speaks in the old voice."""
    named = (
        sys.argv[1:] or subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    )
    files = [
        file for name in named for file in ([Path(name)] if Path(name).is_file() else sorted(Path(name).rglob("*")))
    ]
    found: list[str] = []
    for path in files:
        if path.suffix == ".py" and path.name not in ("check_voice.py", "test_names.py"):
            found += check_python(path)
        elif path.suffix == ".md":
            found += check_markdown(path)
    print("\n".join(found) or "voice: nothing found")
    if found:
        print(f"{len(found)} places. {REMEDY}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
