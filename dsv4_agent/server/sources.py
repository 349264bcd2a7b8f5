"""From a model's name to what samples for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.preset import Preset, default_preset, nano_preset
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.turns import Codec, TurnSource
from dsv4_agent.workbench.engines import open_engine
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import EngineChoice

__all__ = ["open_source"]

_SCRIPTED: Final = "scripted:"


def open_source(
    name: str, choice: EngineChoice, limits: Limits, dialect: Dialect | None = None
) -> tuple[TurnSource, str | None]:
    """Load `nano`, a checkpoint folder or `scripted:FILE`, and a line for the user if there is one.

    Takes seconds and blocks. Raises `RunFailure`.
    """
    if name.startswith(_SCRIPTED):
        return _scripted(Path(name.removeprefix(_SCRIPTED)), _preset(default_preset(), dialect)), None
    from dsv4_agent.server.engine_source import EngineSource

    opened = open_engine(name, choice)
    preset = _preset(nano_preset() if opened.is_nano else default_preset(), dialect)
    source = EngineSource(opened.engine, preset, limits, keeps=opened.choice.keep_conversations)
    return source, opened.engine.notice


def _preset(preset: Preset, dialect: Dialect | None) -> Preset:
    return preset if dialect is None else replace(preset, dialect=dialect)


def _scripted(path: Path, preset: Preset) -> TurnSource:
    from dsv4_agent.backends.scripted import ScriptedBackend, ScriptError
    from dsv4_agent.server.scripted_source import ScriptedSource

    try:
        backend = ScriptedBackend.from_file(path)
    except ScriptError as error:
        raise RunFailure(Subtype.CONFIG, str(error), "See dsv4 help scripted.") from error
    return ScriptedSource(backend, _tokenizer(), preset)


def _tokenizer() -> Codec:
    """V4's vocabulary, or V4-Nano's where the package with it isn't installed."""
    import dsv4_model.nano
    from dsv4_model.tokenizer import Tokenizer, TokenizerError

    try:
        return Tokenizer.deepseek_v4()
    except TokenizerError:
        return Tokenizer.from_file(Path(dsv4_model.nano.__file__).parent / "weights" / "tokenizer.json")
