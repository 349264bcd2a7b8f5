"""The floor: a loop of sixty lines with nothing around it, as a measure of what can't be saved.

python -S bench/harness/floor.py URL PROMPT
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

TOOL = {
    "type": "function",
    "function": {
        "name": "shell",
        "description": "Run a command.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
}


def answer(connection: http.client.HTTPConnection, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Ask for one turn and put its deltas together."""
    body = {"model": "m", "messages": messages, "tools": [TOOL], "stream": True}
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    content, calls = "", []
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            delta = choice["delta"]
            content += delta.get("content") or ""
            calls += delta.get("tool_calls", [])
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [{key: call[key] for key in ("id", "type", "function")} for call in calls]
    return message


def main(url: str, prompt: str) -> None:
    """Work until the model has no more calls."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    while True:
        message = answer(connection, messages)
        messages.append(message)
        if "tool_calls" not in message:
            print(message["content"])
            return
        for call in message["tool_calls"]:
            command = json.loads(call["function"]["arguments"])["command"]
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
            result = f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


if __name__ == "__main__":
    main(*sys.argv[1:])
