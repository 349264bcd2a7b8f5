"""Texts of the pages that commands show: help, context, doctor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dsv4_agent.chat.status import Status
from dsv4_agent.workbench.doctor import own_folders, surroundings
from dsv4_agent.workbench.findings import Finding, Grade, as_lines
from dsv4_agent.workbench.money import price
from dsv4_agent.workbench.sizes import size

_KINDS: Mapping[str, str] = {
    "window": "window rows",
    "csa_entries": "CSA entries",
    "hca_entries": "HCA entries",
    "index_keys": "indexer keys",
    "partial": "partial blocks",
    "draft": "draft window",
}
_BAR = 24


def help_page(commands: Iterable[tuple[str, str]], keys: Iterable[tuple[str, str]]) -> str:
    """What can be typed and pressed."""
    rows = [
        "Write what should be done and press Enter. What you write while the",
        "agent works reaches it at the next chance. Esc stops it, keeping what",
        "was done; Esc Esc goes back to an earlier prompt.",
        "",
        "  @path      mention a file: the model gets its text",
        "  !command   run a command yourself: the model reads its output",
        "  /command   one of these:",
        "",
        "Commands",
        *_table(commands),
        "",
        "Keys",
        *_table(keys),
    ]
    return "\n".join(rows)


def context_page(status: Status) -> str:
    """What fills the context window, and what the KV cache holds in bytes."""
    kv, parts = status.kv, status.breakdown
    limit = kv.limit if kv is not None else status.window
    if kv is None or parts is None:
        return f"Nothing has been computed yet.\n\n  window        {limit:>12,} tokens"
    lines = [
        f"  used          {kv.used:>12,} tokens   {share(kv.used, limit)} of {limit:,}",
        f"  reused        {kv.reused:>12,} tokens   in the last turn, not computed again",
        *([f"  restored      {kv.restored:>12,} tokens   of those, from disk"] if kv.restored else []),
        f"  prefilled     {kv.prefilled:>12,} tokens   in the last turn",
        *([] if status.cost is None else [f"  cost          {price(status.cost, status.currency):>12}"]),
        "",
        "What it is",
    ]
    named = {
        "system": parts.system,
        "tools": parts.tools,
        "instructions": parts.memory,
        "conversation": parts.conversation,
        "thinking": parts.thinking,
    }
    lines += [
        f"  {name:<13} {tokens:>12,} tokens   {_bar(tokens, kv.used)}" for name, tokens in named.items()
    ]
    lines += ["", "What the KV cache holds"]
    if not kv.bytes:
        return "\n".join([*lines, "  the cache is not in this process, so its bytes are not known here"])
    lines += [f"  {_KINDS.get(kind, kind):<15} {size(count):>10}" for kind, count in kv.bytes.items()]
    total = sum(kv.bytes.values())
    each = f"{total / max(1, kv.used):,.0f} bytes a token"
    return "\n".join([*lines, f"  {'all':<15} {size(total):>10}   {each}"])


def doctor_page(status: Status, environment: Mapping[str, str]) -> str:
    """Whether this machine and terminal have what dsv4 can use, and what answers now. Blocks."""
    now = [
        Finding("model", Grade.OK, f"{status.model} ({status.backend or 'not loaded'})"),
        Finding("window", Grade.OK, f"{status.window:,} tokens"),
        Finding("in use", Grade.OK, status.sandbox or "no sandbox chosen before the first prompt"),
    ]
    rows = as_lines([*surroundings(environment), *own_folders(), *now])
    return "\n".join([*rows, "", "  dsv4 doctor on the command line asks every server as well"])


def share(part: int, whole: int) -> str:
    """A percentage that never says 0 % of something or 100 % of not all."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.1 or not part else "< 0.1 %"


def _bar(part: int, whole: int) -> str:
    filled = round(_BAR * part / whole) if whole else 0
    return "█" * filled + "·" * (_BAR - filled) + f"  {share(part, whole)}"


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}   {text}" for name, text in rows]
