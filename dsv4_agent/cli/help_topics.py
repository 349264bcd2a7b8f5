"""`dsv4 help TOPIC`: pages on what is longer than an option's help."""

from __future__ import annotations

from typing import Annotated, Final

import typer

TOPICS: Final = ("batch", "exit-codes", "events", "schema", "scripted", "settings")
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

_BATCH: Final = """\
A plan of `dsv4 batch` is a TOML file. Every key but prompt and items has a default; `dsv4 batch schema`
prints the JSON Schema, `dsv4 batch check PLAN` says what is wrong with one.

  prompt = "Rename {old} to {new} everywhere."   # or prompt_file = "prompt.txt"
  items = { jsonl = "items.jsonl" }              # objects, one a line; their keys are the placeholders
  # items = { glob = ["src/**/*.py"], exclude = ["src/gen/**"] }    {path} {name} {stem} {dir} {tests}
  # items = { lines = "names.txt" }                                 {line}
  # items = { command = "git grep -l old_api" }                     {line}, a line of its output
  # items = { repositories = ["../services/*"] }                    {repository} {name}
  name = "rename"                # of branches and reports
  base = "HEAD"                  # what every item starts from; uncommitted changes are not seen
  setup = "npm ci"               # before the model begins; what it changes is not delivered
  verify = ["pytest -q {tests}", "! grep -rnw {old} ."]    # each must exit 0; values are quoted for the shell
  setup_timeout = 600            # seconds, of each command; also verify_timeout
  allow = ["src/"]               # paths that may change
  retries = 1                    # tries after a failed check
  retry = "feedback"             # feedback: go on with what the check said; fresh: begin anew
  budget = { max_turns = 30, max_tokens = 20000, max_tool_calls = 60, max_time = 900 }    # of an item
  total = { max_tokens = 1000000, max_time = 7200 }                                       # of the batch
  jobs = 4                       # items in progress at once
  model = "flash"                # as --model; also effort, temperature, seed
  permission_mode = "default"    # plan, default, accept-edits, auto, bypass
  allowed_tools = ["shell(npm test:*)"]          # also disallowed_tools
  sandbox = "workspace-write"    # read-only, workspace-write, off; named, it must be had
  deliver = "commits"            # patches, branch, commits, branches
  branch = "dsv4/rename"         # with branches: placeholders
  message = "Rename {old}"
  conflicts = "report"           # redo: do an item that conflicts again, on what is in
  require_clean = false

Items end as done, no_change, verify_failed, conflict, budget, skipped or error. Patches of all that changed
something are kept; only what is verified is integrated, in the order of the items, and verified again. The
exit code is 0 if all are done or no_change, else 59 (--allow-failures N). `dsv4 batch --resume` goes on after
a crash. Write {{name}} for the text {name}. docs/batch.md has the whole of it, docs/ci.md is about pipelines.
"""

_SCRIPTED: Final = """\
`dsv4 run --model scripted:FILE` plays a file in place of a model, so pipelines can be tested without one.
"""


@app.command()
def help(
    topic: Annotated[
        str, typer.Argument(help="batch, exit-codes, events, schema, scripted or settings.")
    ] = "",
) -> None:
    """Explain batch, exit-codes, events, schema, scripted or settings."""
    match topic:
        case "exit-codes":
            from dsv4_agent.workbench.exit_codes import table

            page = table()
        case "events":
            page = _EVENTS
        case "batch":
            page = _BATCH
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
    from dsv4_agent.tui.key_bindings import key_bindings

    return "".join(f"  {b.id:<26} {b.key:<24} {b.description}\n" for b in key_bindings())


def _scripted_format() -> str:
    import inspect

    from dsv4_agent.backends import scripted

    return inspect.cleandoc(scripted.__doc__ or "") + "\n"
