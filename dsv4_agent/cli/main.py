"""The `dsv4` console entry: the last line of defence against a traceback."""

from __future__ import annotations

import errno
import os
import sys

from dsv4_agent.version import __version__


def main() -> int:
    """Run the command line; returns or exits with the documented exit code, never with a traceback."""
    _open_missing_streams()
    try:
        try:
            _run(sys.argv[1:])
        finally:
            sys.stdout.flush()  # what can't be written is to be known here, not while Python shuts down
    except BrokenPipeError:
        _forget_output()
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _disk_full(error)
        if isinstance(error, RuntimeError) and "home directory" in str(error).lower():
            return _no_home()
        return _internal_error(error)
    return 0


def _run(arguments: list[str]) -> None:
    if arguments in (["--version"], ["-V"]):
        print(f"dsv4 {__version__}")
        return
    from dsv4_agent.cli.quick_start import quicken

    quicken()
    from dsv4_agent.cli.commands import app

    app(prog_name="dsv4")


def _forget_output() -> None:
    """What stdout holds can't be written: or the interpreter complains while it shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _disk_full(error: OSError) -> int:
    _forget_output()
    what = error.filename or "the output"
    print(f"dsv4: error: {what} can't be written: {error.strerror}. Free some space.", file=sys.stderr)
    return 54


def _no_home() -> int:
    """A container's user without an entry in passwd and without HOME: there is no place for anything."""
    print(
        "dsv4: error: this user has no home directory. Set HOME, or DSV4_CONFIG_DIR, DSV4_STATE_DIR and "
        "DSV4_CACHE_DIR.",
        file=sys.stderr,
    )
    return 52


def _open_missing_streams() -> None:
    """The number of a stream closed at the start would go to the next file opened, to be written into."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    # Python has made None of a stream that was closed.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _internal_error(error: Exception) -> int:
    from dsv4_agent.workbench.crash_report import write_crash_report

    where = write_crash_report(error)
    report = f". Report: {where}" if where else ""
    print(f"dsv4: error: internal error ({type(error).__name__}){report}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
