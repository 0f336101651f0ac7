"""Takes the pictures of docs/pictures from a real `tallystick demo`: what it prints, and an invoice that it issued. `make pictures`.

They are of one run, so nothing compares them with another; the times and rates in them are those of the machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from shared.postgres import connect

PICTURES: Final = Path(__file__).parent / "pictures"
COLUMNS: Final = 118
SHOWN: Final = {
    "Traffic": ("half is sent", "was ended by SIGKILL", "signed up"),
    "Refused, and why": ("reason", "━", "invalid_value", "nobody_named", "not_json"),
    "Suspended, and why": ("because", "━", "credits_exhausted", "quota_tokens"),
    "What came after the invoice is on the next one": ("by the end of it", "input tokens in"),
    "Why is line": ("invoice INV-", "valid from", "events in all"),
    "What if": ("would have been",),
    "The proof": (
        "check",
        "━",
        "sent = stored: request tokens",
        "offsets accounted: offsets",
        "rated = billed",
        "all ",
    ),
}
"""The sections that are shown, and what is in the lines of them that are: the first line for each. A `…` stands for the rest."""
_MODERATE: Final = """
SELECT number FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
WHERE number IS NOT NULL GROUP BY i.id, number HAVING count(*) BETWEEN 6 AND 11
ORDER BY count(*) FILTER (WHERE l.amount >= 0.05) DESC, number LIMIT 1
"""
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\r")  # all but colours


def shown(printed: str) -> list[Text]:
    """Return the lines of SHOWN out of what the demo has printed, with their colours."""
    lines: list[Text] = []
    wanted: list[str] = []
    for raw in _CONTROL.sub("", printed).splitlines():
        line = Text.from_ansi(raw)
        if title := next((title for title in SHOWN if line.plain.startswith(title)), None):
            wanted = list(SHOWN[title])
            lines += [Text("…", style="dim"), Text(), line]
        elif found := next((words for words in wanted if words in line.plain), None):
            wanted.remove(found)
            lines.append(line)
    return lines


def terminal(lines: list[Text]) -> str:
    """Return a picture of a terminal with these lines, as SVG, in the fonts of who looks at it."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, legacy_windows=False)
        console.print(Text("$ make demo", style="bold"))
        for line in lines:
            line.truncate(COLUMNS, overflow="ellipsis")
            console.print(line, highlight=False)
        svg = console.export_svg(title="make demo", theme=MONOKAI, unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they would come from elsewhere
    return svg.replace("Fira Code", "ui-monospace, Menlo")


async def _moderate_invoice(database_url: str) -> str:
    connection = await connect(database_url, application_name="tallystick-docs")
    try:
        return str(await connection.fetchval(_MODERATE))
    finally:
        await connection.close()


def main() -> None:
    """Run the demo, and write its pictures."""
    tallystick = str(Path(sys.executable).with_name("tallystick"))
    own = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"}}
    with tempfile.TemporaryDirectory() as directory:
        environ = own | {"TALLYSTICK_LOCAL_DIR": f"{directory}/local", "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"}
        demo = [tallystick, "demo", "--keep", *sys.argv[1:]]
        try:
            printed = subprocess.run(demo, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
            PICTURES.mkdir(exist_ok=True)
            (PICTURES / "demo.svg").write_text(terminal(shown(printed)), encoding="utf-8")
            plain = _CONTROL.sub("", re.sub(r"\x1b\[[0-9;]*m", "", printed))
            environ["DATABASE_URL"] = re.findall(r"DATABASE_URL=(\S+)", plain)[-1]
            number = asyncio.run(_moderate_invoice(environ["DATABASE_URL"]))
            render = [tallystick, "render", number, "--format", "png", "--to", directory]
            first = subprocess.run(render, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
            (PICTURES / "invoice.png").write_bytes(Path(first).read_bytes())
        finally:
            away = own | {"TALLYSTICK_LOCAL_DIR": f"{directory}/demo"}  # where the demo has its own
            subprocess.run([tallystick, "local", "down", "--purge"], env=away, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
