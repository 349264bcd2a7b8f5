"""`dsv4 cache`: the KV states on disk, from which sessions start without computing their prompts again."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import typer

from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.plain_text import plain_line
from dsv4_agent.workbench.sizes import size
from dsv4_model.stored_states import (
    StoredState,
    kv_folder,
    list_states,
    model_name,
    remove_stale_parts,
    remove_state,
)

app = typer.Typer(
    help="Look at stored KV states and remove them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_DAY = 86_400.0
_LAST_DAY = 2.0**37


@app.command()
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """List the stored states: the most recently used first."""
    states, limit = _states(), _limit()
    total = sum(state.nbytes for state in states)
    if as_json:
        rows = [
            {
                "id": state.id,
                "model": model_name(state),
                "tokens": state.tokens,
                "bytes": state.nbytes,
                "used": _used(state).astimezone(UTC).isoformat(timespec="seconds"),
            }
            for state in states
        ]
        print(json.dumps({"folder": str(kv_folder()), "total": total, "limit": limit, "states": rows}))
        return
    if states:
        print(f"{'ID':<14}{'Model':<26}{'Tokens':>11}{'Size':>12}  Last used")
    for state in states:
        name = plain_line(model_name(state) or "unknown", 24)
        used = _used(state).strftime("%Y-%m-%d %H:%M")
        _print(f"{state.id:<14}{name:<26}{state.tokens:>11,}{size(state.nbytes):>12}  {used}")
    allowed = f" of {size(limit)}" if limit else "; storing is switched off"
    print(f"{_count(len(states))}, {size(total)}{allowed}")


@app.command()
def rm(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="As ls shows them, or beginnings of them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all states.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", min=0.0, metavar="DAYS", help="Remove what was last used before that."),
    ] = None,
) -> None:
    """Remove stored states. Sessions stay; what they said is computed again when they go on."""
    if [bool(ids), everything, older_than is not None].count(True) != 1:
        _refuse("say what to remove: IDs, --all, or --older-than DAYS. See: dsv4 cache ls")
    states = _states()
    if ids:
        chosen = [_named(wanted, states) for wanted in ids]
    elif everything:
        chosen = states
    else:
        before = time.time() - (older_than or 0.0) * _DAY
        chosen = [state for state in states if state.used < before]
    removed = freed = 0
    try:
        for state in {state.path: state for state in chosen}.values():
            freed += (gone := remove_state(state))
            removed += gone > 0
        remove_stale_parts(kv_folder())
    except OSError as error:
        _refuse(f"{error.filename} can't be removed: {error.strerror}. Check who owns the folder.")
    print(f"Removed {_count(removed)}, {size(freed)}.")


@app.command()
def path() -> None:
    """Print the folder that states are kept in (DSV4_KV_DIR chooses another)."""
    _print(str(kv_folder()))


def _states() -> list[StoredState]:
    try:
        return list_states(kv_folder())
    except OSError as error:
        _refuse(f"{kv_folder()} can't be read: {error.strerror}. Check who owns it, or DSV4_KV_DIR.")


def _limit() -> int:
    from dsv4_agent.workbench.engine_settings import cache_limit
    from dsv4_agent.workbench.failures import RunFailure
    from dsv4_agent.workbench.settings import SettingsError, load_settings

    try:
        return cache_limit(load_settings())
    except SettingsError as error:
        _refuse(str(error), ExitCode.CONFIG)
    except RunFailure as failure:
        _refuse(failure.line(), ExitCode.CONFIG)


def _named(wanted: str, states: list[StoredState]) -> StoredState:
    found = [state for state in states if wanted and state.id.startswith(wanted)]
    if len(found) != 1:
        what = f"{len(found)} states begin with" if found else "there is no state"
        _refuse(f"{what} {wanted!r}. See: dsv4 cache ls")
    return found[0]


def _used(state: StoredState) -> datetime:
    """A file system can tell of times that no calendar has."""
    return datetime.fromtimestamp(min(max(0.0, state.used), _LAST_DAY)).astimezone()


def _count(number: int) -> str:
    return "1 state" if number == 1 else f"{number:,} states"


def _refuse(line: str, code: ExitCode = ExitCode.INPUT) -> NoReturn:
    print(f"dsv4: error: {plain_line(line)}", file=sys.stderr)
    raise typer.Exit(code)


def _print(line: str) -> None:
    """Names of models and folders may hold what the terminal's encoding lacks."""
    sys.stdout.flush()
    sys.stdout.buffer.write(f"{line}\n".encode(sys.stdout.encoding or "utf-8", "replace"))
    sys.stdout.buffer.flush()
