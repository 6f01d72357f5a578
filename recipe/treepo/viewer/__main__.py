# SPDX-License-Identifier: Apache-2.0
"""``python -m recipe.treepo.viewer DIR``: view the trees that a run dumped (``treepo.dump.dir``).

By default the pages are served on this machine. Pages, terminal and trace are imported only when needed, so that
``--help`` is fast.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.treepo.command_line.program import as_called

if TYPE_CHECKING:
    from recipe.treepo.dumps.reader import Dump

DESCRIPTION = """\
Show the trees of a run: shared tokens, forks between correct and wrong answers, credit of each segment.
Without --html, --svg, --text or --trace, the pages are served on this machine until Ctrl-C."""
EXAMPLES = """\
examples:
  python -m recipe.treepo.viewer outputs/runs/X/trees
  python -m recipe.treepo.viewer outputs/runs/X/trees --step 20 --text
  python -m recipe.treepo.viewer outputs/runs/X/trees --step 20 --uid 3f2c --html tree.html
  python -m recipe.treepo.viewer outputs/runs/X/trees --step 20 --trace trace.json   # for ui.perfetto.dev

on another machine: ssh -L 8765:localhost:8765 HOST, then open http://localhost:8765"""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=as_called("python -m recipe.treepo.viewer"),
        description=DESCRIPTION,
        epilog=as_called(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder of the dump (treepo.dump.dir)")
    parser.add_argument("--step", type=int, metavar="N", help="only trees of this step")
    parser.add_argument("--uid", metavar="X", help="only trees of this prompt: its id or a prefix of it")
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--html", type=Path, metavar="OUT", help="write pages into a folder, or one tree into a file named *.html"
    )
    output.add_argument("--svg", type=Path, metavar="OUT", help="write the picture of one tree")
    output.add_argument("--text", action="store_true", help="print the trees")
    output.add_argument("--trace", type=Path, metavar="OUT", help="write the requests as a Chrome trace")
    parser.add_argument("--port", type=int, metavar="N", help="port of the server (default: 8765, or a free one)")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the viewer; return its exit status."""
    chosen = arguments(sys.argv[1:] if words is None else words)
    from recipe.treepo.dumps.members import DumpError
    from recipe.treepo.dumps.reader import Dump

    try:
        if chosen.port is not None and not 0 <= chosen.port <= 65_535:
            raise DumpError(f"--port={chosen.port}: must be 0 to 65535. Leave it out for a free one.")
        dump = Dump(chosen.dir)
        dump.refresh()
        _show(dump, chosen)
    except DumpError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or chosen.dir}: {error.strerror or error}. Check the name and the permissions.")
    return 0


def _show(dump: "Dump", chosen: argparse.Namespace) -> None:
    from recipe.treepo.viewer.selection import require_trees, select

    entries = select(dump, step=chosen.step, uid=chosen.uid)
    serving = chosen.html is None and chosen.svg is None and chosen.trace is None and not chosen.text
    if not serving or dump.trees():  # a running run may write its first tree later
        require_trees(dump, entries, chosen.step, chosen.uid)
    if serving:
        _serve(dump, chosen)
    elif chosen.html is not None:
        from recipe.treepo.viewer.export import export

        count = export(dump, entries, chosen.html)
        place = chosen.html if chosen.html.suffix == ".html" else chosen.html / "index.html"
        print(f"{count} {'tree' if count == 1 else 'trees'}: {place}")
    elif chosen.svg is not None:
        from recipe.treepo.viewer.export import export_picture

        export_picture(dump, entries, chosen.svg)
        print(f"1 tree: {chosen.svg}")
    elif chosen.trace is not None:
        from recipe.treepo.viewer.trace import chrome_trace

        trace = chrome_trace(dump, entries)
        chosen.trace.write_text(json.dumps(trace), encoding="utf-8")
        count = sum(event["ph"] == "X" for event in trace["traceEvents"])
        print(f"{count} requests: {chosen.trace} (open it at ui.perfetto.dev)")
    else:
        from rich.console import Console

        from recipe.treepo.viewer.terminal import print_tree

        console = Console()
        for entry in entries:
            print_tree(dump.load(entry), console)


def _serve(dump: "Dump", chosen: argparse.Namespace) -> None:
    from recipe.treepo.viewer.selection import select
    from recipe.treepo.viewer.server import ADDRESS, make_server

    server = make_server(dump, lambda dump: select(dump, step=chosen.step, uid=chosen.uid), port=chosen.port)
    print(f"{len(dump.trees())} trees at http://{ADDRESS}:{server.server_port} (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def program() -> int:
    """Run the viewer as a program; return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows escape codes
    return main()


if __name__ == "__main__":
    sys.exit(program())
