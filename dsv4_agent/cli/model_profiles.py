"""`dsv4 model add|list|use|remove|test`: the models behind servers, and which one is the default."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dsv4_agent.backends.profile import Secret, ServerProtocol
from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.workbench.exit_codes import ExitCode

_LONGEST_KEY = 8192

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The profile's name, as for --model.")]


def add(
    name: NameArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it is: http://127.0.0.1:8000/v1")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The server's name for the model.")
    ] = None,
    protocol: Annotated[
        ServerProtocol | None, typer.Option("--protocol", help="Default: tokens where they surely work.")
    ] = None,
    dialect: Annotated[
        Dialect | None, typer.Option("--dialect", help="The checkpoint's prompt format. Default: by name.")
    ] = None,
    context: Annotated[int | None, typer.Option("--context", min=1, help="Most tokens to use.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="deepseek-v4|nano|server|PATH", help="For the token protocol."),
    ] = None,
    effort: Annotated[str | None, typer.Option("--effort", help="off, low, high, max; V4.1: 1-100.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0)] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0, max=1)] = None,
    min_p: Annotated[float | None, typer.Option("--min-p", min=0, max=1)] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Most of one turn.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME:VALUE", help="Sent along. Repeat. No keys.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="FILE", help="Certificates to trust.")
    ] = None,
    proxy: Annotated[str | None, typer.Option("--proxy", metavar="URL", help="Default: HTTPS_PROXY.")] = None,
    key_env: Annotated[
        str | None, typer.Option("--key-env", metavar="VARIABLE", help="The variable that holds the key.")
    ] = None,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the key from stdin; kept in the keyring or a 0600 file.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of this name.")] = False,
) -> None:
    """Add a model behind a server to config.toml. Keys never go there."""
    from dsv4_agent.workbench.profile_file import add_profile, check_profile, would_go_elsewhere
    from dsv4_agent.workbench.settings import SettingsError

    given: dict[str, object] = {
        "base_url": url,
        "protocol": None if protocol is None else protocol.value,
        "model": model,
        "dialect": None if dialect is None else dialect.value,
        "context": context,
        "tokenizer": tokenizer,
        "effort": effort,
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "max_tokens": max_tokens,
        "headers": dict(map(_header, header or ())) or None,
        "ca_file": None if ca_file is None else str(ca_file.resolve()),
        "proxy": proxy,
        "key_env": key_env,
    }
    secret = _read_key() if key_stdin else None
    try:
        table = {key: value for key, value in given.items() if value is not None}
        check_profile(name, table, replaces=force)
        if secret is None and would_go_elsewhere(name, url):
            _fail(
                f"a key is kept under {name} that was not for {url} and would go there: give its own with "
                f"--key-stdin, or remove that one first: dsv4 model remove {name}",
                ExitCode.CONFIG,
            )
        # The key first: a profile that can't have its key is not added.
        place = None if secret is None else _keep(name, secret)
        path = add_profile(name, table, replaces=force)
    except SettingsError as error:
        _fail(str(error), ExitCode.CONFIG)
    if place is not None:
        print(f"the key is in {place}")
    print(f"added {name} to {path}; dsv4 model test {name} tries it, --model {name} uses it")


def remove(name: NameArgument) -> None:
    """Remove a model from config.toml, and the key that was kept for it."""
    from dsv4_agent.workbench.keys import forget_key, is_kept
    from dsv4_agent.workbench.model_profiles import check_name
    from dsv4_agent.workbench.profile_file import remove_profile
    from dsv4_agent.workbench.settings import SettingsError, load_settings

    try:
        check_name(name)
        if name not in load_settings().models and is_kept(name):  # the profile was removed by hand
            forget_key(name)
            print(f"removed the key that was kept for {name}; there is no such model in config.toml")
            return
        was_default = remove_profile(name)
        forget_key(name)
    except SettingsError as error:
        _fail(str(error), ExitCode.CONFIG)
    except OSError as error:
        _fail(f"the key of {name} can't be removed: {error.strerror}", ExitCode.CONFIG)
    print(f"removed {name}" + (", which was the default: it is nano again" if was_default else ""))


def use(
    name: Annotated[str, typer.Argument(metavar="NAME|nano|PATH", help="What --model takes.")],
) -> None:
    """Make a model the default of chat and run."""
    from dsv4_agent.workbench.model_catalogue import anywhere, is_known
    from dsv4_agent.workbench.profile_file import use_model
    from dsv4_agent.workbench.settings import SettingsError

    try:
        if not is_known(name, os.environ):
            _fail(f"there is no model {name!r}: dsv4 model list shows them", ExitCode.CONFIG)
        path = use_model(anywhere(name, os.environ))
    except SettingsError as error:
        _fail(str(error), ExitCode.CONFIG)
    print(f"{name} is now the default of chat and run ({path})")


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead.")] = False,
) -> None:
    """List the models that --model knows by name; * marks the default."""
    from dsv4_agent.workbench.model_catalogue import catalogue
    from dsv4_agent.workbench.plain_text import plain_line
    from dsv4_agent.workbench.settings import SettingsError

    try:
        entries = catalogue(os.environ)
    except SettingsError as error:
        _fail(str(error), ExitCode.CONFIG)
    if as_json:
        print(json.dumps([entry.as_data() for entry in entries], ensure_ascii=False))
        return
    name, what = (max(len(getattr(entry, part)) for entry in entries) for part in ("name", "what"))
    for entry in entries:
        mark = "*" if entry.default else " "
        print(
            plain_line(
                f"{mark} {entry.name:<{name}}  {entry.what:<{what}}  {entry.where}  {entry.key}"
            ).rstrip()
        )


def test(
    name: NameArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Ask a server what it is and let it do one small task with a tool. Samples tokens, which may cost."""
    from dsv4_agent.workbench.failures import RunFailure
    from dsv4_agent.workbench.findings import any_problem, as_data, as_lines
    from dsv4_agent.workbench.model_catalogue import find_profile
    from dsv4_agent.workbench.model_trial import try_model

    try:
        trial = try_model(find_profile(name, os.environ))
    except RunFailure as failure:
        if as_json:
            print(json.dumps({"model": name, "ok": False, "error": failure.line(), "findings": []}))
        _fail(failure.line(), failure.code)
    ok = trial.answered and not any_problem(trial.findings)
    if as_json:
        data = {"model": name, "ok": ok, "error": None, "findings": as_data(trial.findings)}
        print(json.dumps(data, ensure_ascii=False))
    else:
        print("\n".join(as_lines(trial.findings)))
    raise typer.Exit(ExitCode.OK if ok else ExitCode.FAILED)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not value.strip():
        raise typer.BadParameter(f"{text!r} is not NAME:VALUE", param_hint="--header")
    return name.strip(), value.strip()


def _read_key() -> Secret:
    if sys.stdin is None:  # closed by the shell
        text = ""
    elif sys.stdin.isatty():
        import getpass

        try:
            text = getpass.getpass("Key: ")
        except EOFError:
            text = ""
    else:
        text = sys.stdin.readline(_LONGEST_KEY + 2)
    if not text.strip():
        _fail(
            '--key-stdin: there is no key on stdin. Pipe it there: printf %s "$KEY" | dsv4 ...',
            ExitCode.INPUT,
        )
    return _checked(Secret(text.strip()))


def _checked(secret: Secret) -> Secret:
    from dsv4_agent.workbench.keys import KeyRefused, check_key

    try:
        check_key(secret)
    except KeyRefused as error:
        _fail(str(error), ExitCode.INPUT)
    return secret


def _keep(name: str, secret: Secret) -> str:
    from dsv4_agent.workbench.keys import KeyRefused, keep_key

    try:
        return keep_key(name, secret)
    except KeyRefused as error:
        _fail(str(error), ExitCode.INPUT)
    except OSError as error:
        _fail(f"the key can't be kept: {error.strerror}. Use --key-env instead.", ExitCode.CONFIG)


def _fail(message: str, code: Any) -> NoReturn:
    from dsv4_agent.workbench.plain_text import plain_line

    print(f"dsv4: error: {plain_line(message)}", file=sys.stderr)
    raise typer.Exit(int(code))
