"""`dsv4 help TOPIC`: pages on what is longer than an option's help."""

from __future__ import annotations

from typing import Annotated, Final

import typer

TOPICS: Final = ("exit-codes", "events", "schema", "scripted", "settings")
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_EVENTS: Final = """\
`dsv4 run --output-format stream-json` (or --json) prints one JSON object a line, UTF-8, schema_version 1.

  init                what the run works with: model, repository, permissions, tools. Always first, except
                      that a run which fails before it can begin prints only its result
  user.message        what a person said reaches the model
  turn.started        the model is asked
  item.started        a piece of work begins: reasoning, agent_message, command_execution, file_change,
                      tool_call
  item.delta          more text of a reasoning or agent_message item (with --include-partial)
  item.completed      the item in full; status is completed, failed, declined or timed_out. The text of
                      reasoning is left out unless --include-reasoning
  permission.denied   a call was refused, and by which rule
  retry               the model is asked again after delay_ms; with discarded the turn begins anew, and what
                      had come of it (and was shown: its items are partial) counts no more
  context.updated     tokens in the KV state: used, reused (restored: from disk), prefilled, and what
                      fills the context
  prefix.break        cached tokens are lost: why, and how many
  approval.requested, rewound, compacted: only in sessions of dsv4 chat, whose journals hold the same events
  notice              a guard's or a repair's note
  turn.completed      tokens and speed of the turn, and its cost where the server's prices are known
  result              how the run ended; always last, always exactly one. error is one line with its remedy

Ignore event types, item types and fields that you don't know: within a schema version they are only added.
--output-format json prints the result object alone. `dsv4 help schema` prints the JSON Schema of all events.
"""

_SETTINGS: Final = """\
`config.toml` in your configuration folder ($DSV4_CONFIG_DIR; `/doctor` in the chat says where it is):

  model = "flash"                # the default of --model: nano, a folder, a name below (dsv4 model use)

  [models.flash]                 # a server, for --model flash (dsv4 model add writes this)
  base_url = "https://gpu.example/v1"
  protocol = "tokens"            # tokens or chat; without it, tokens where they surely work
  model = "deepseek-v4-flash"    # the server's name for it; needed where there are several
  dialect = "v4-0731"            # v4, v4-0731, v4.1; without it, by the model's name
  preset = "default"             # default, nano
  context = 262144               # most tokens to use; the server's own window is the limit
  tokenizer = "deepseek-v4"      # deepseek-v4, nano, a folder, server: for the token protocol
  effort = "high"                # off, low, high, max; V4.1 also 1 to 100
  temperature = 1.0              # also top_p, min_p, and max_tokens of one turn
  key_env = "GPU_API_KEY"        # the variable that holds the key; a key itself is refused here
  headers = { X-Team = "blue" }
  ca_file = "~/ca.pem"           # also proxy = "http://..."
  retries = 5
  timeouts = { connect = 10, first_token = 600, silence = 120 }       # seconds
  prices = { hit = 0.003, miss = 0.15, output = 0.6, currency = "USD" }   # of a million tokens

  [tui]
  theme = "dsv4-dark"            # dsv4-dark, dsv4-light, dsv4-contrast
  reduced_motion = false         # true: nothing moves by itself

  [chat]
  model = "nano"                 # as --model, for the chat alone
  permission_mode = "default"    # plan, default, accept-edits, auto

  [engine]                       # the model in this process
  cache_limit = "4 GiB"          # KV states on disk (dsv4 cache); 0: none. DSV4_KV_CACHE_LIMIT overrides it
  cache_format = "fp8+fp4"       # fp32, bf16, fp8, fp8+fp4: as --cache-format
  memory_budget = "20 GiB"       # as --memory-budget
  device = "cuda:0,cuda:1"       # as --device
  threads = 8                    # as --threads

  [keys]                         # the id of a key binding = other keys, comma-separated
  "app.cycle_mode" = "f2"

Without a file: --model server is the server of DSV4_BASE_URL, with DSV4_API_KEY and DSV4_SERVER_MODEL,
_PROTOCOL, _DIALECT, _PRESET, _TOKENIZER, _CONTEXT and _EFFORT; --model deepseek is DeepSeek's API, with
DEEPSEEK_API_KEY. A key is looked for in that variable, in the keyring (service dsv4, the profile's name), and
in keys/NAME beside this file, which nobody else may be able to read.

Nothing of the kind is ever read from a repository. The ids of key bindings:

"""

_SCRIPTED: Final = """\
`dsv4 run --model scripted:FILE` plays a file in place of a model, so pipelines can be tested without one.
"""


@app.command()
def help(
    topic: Annotated[str, typer.Argument(help="exit-codes, events, schema, scripted or settings.")] = "",
) -> None:
    """Explain exit-codes, events, schema, scripted or settings."""
    match topic:
        case "exit-codes":
            from dsv4_agent.workbench.exit_codes import table

            page = table()
        case "events":
            page = _EVENTS
        case "schema":
            from dsv4_agent.headless.schemas import events_schema_text

            page = events_schema_text()
        case "settings":
            page = _SETTINGS + _bindings()
        case "scripted":
            page = _SCRIPTED + "\n" + _scripted_format()
        case "":
            topics = ", ".join(TOPICS)
            page = f"Topics: {topics}. For a command's options: dsv4 COMMAND --help\n"
        case _:
            raise typer.BadParameter(f"no topic {topic!r}: there are {', '.join(TOPICS)}")
    typer.echo(page, nl=False)


def _bindings() -> str:
    from textual.binding import Binding

    from dsv4_agent.tui.app import ChatApp
    from dsv4_agent.tui.composer.composer import Composer
    from dsv4_agent.tui.panels.approval import ApprovalPanel

    found = [
        binding
        for owner in (ChatApp, Composer, ApprovalPanel)
        for binding in owner.BINDINGS
        if isinstance(binding, Binding) and binding.id
    ]
    return "".join(f"  {b.id:<26} {b.key:<24} {b.description}\n" for b in found)


def _scripted_format() -> str:
    import inspect

    from dsv4_agent.backends import scripted

    return inspect.cleandoc(scripted.__doc__ or "") + "\n"
