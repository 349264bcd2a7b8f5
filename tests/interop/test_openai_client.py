"""The official client does a task: streamed calls, results given back, an answer that obeys a schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the official client is a development package")
pytest.importorskip("torch", reason="the server runs the engine")

import openai
import pydantic

from dsv4_agent.loop.preset import nano_preset
from tests.server.agent_prompt import nano_tools
from tests.server.conftest import nano_engine, serving

PROMPT = "Rename old to fresh everywhere."


class Verdict(pydantic.BaseModel):
    done: bool
    files: int = pydantic.Field(ge=0, le=9)


def run(name: str, arguments: dict[str, Any], folder: Path) -> str:
    """Two tools in a few lines: what another program would do with the calls."""
    if name == "grep":
        found = [
            f"{path.name}:{number}:{line}"
            for path in sorted(folder.iterdir())
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if arguments["pattern"] in line
        ]
        return "\n".join(found) or "No matches."
    assert name == "edit", name
    path = folder / arguments["path"]
    path.write_text(path.read_text().replace(arguments["old_string"], arguments["new_string"]))
    return "Edited."


async def test_a_whole_task_by_the_official_client(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def old():\n    return 1\n")
    (tmp_path / "b.py").write_text("from a import old\n")
    messages: list[Any] = [
        {"role": "system", "content": nano_preset().system_prompt},
        {"role": "user", "content": PROMPT},
    ]
    async with serving(nano_engine(), sockets=True) as served:
        base = str(served.http.base_url.join("/v1"))
        async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
            for _ in range(8):
                async with client.chat.completions.stream(
                    model="nano", messages=messages, tools=nano_tools(), temperature=0
                ) as stream:
                    answer = (await stream.get_final_completion()).choices[0]
                messages.append(answer.message.model_dump(exclude_none=True))
                if answer.finish_reason != "tool_calls":
                    break
                for call in answer.message.tool_calls:
                    result = run(call.function.name, json.loads(call.function.arguments), tmp_path)
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            verdict = await client.chat.completions.parse(
                model="nano",
                messages=[{"role": "user", "content": "Is it done?"}],
                response_format=Verdict,
                max_tokens=200,
            )
    assert messages[-1]["content"] == "Renamed `old` to `fresh`."
    assert (tmp_path / "a.py").read_text() == "def fresh():\n    return 1\n"
    assert (tmp_path / "b.py").read_text() == "from a import fresh\n"
    assert isinstance(verdict.choices[0].message.parsed, Verdict)
