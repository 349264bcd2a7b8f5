"""A loopback server that answers as a kind of server does: a table of paths, and all that it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any] | Callable[[Any], tuple[int, Any]]
"""A status and a JSON value (bytes go out as they are), or a function of the request's body."""


@dataclass
class ImitatedServer:
    """Start with `with`. `routes` maps `"GET /path"` to answers; anything else gets a 404."""

    routes: dict[str, Answer]
    key: str | None = None
    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> ImitatedServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self, None)

            def do_POST(self) -> None:
                outer._answer(self, self.rfile.read(int(self.headers.get("content-length", 0))))

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes | None) -> None:
        name = f"{request.command} {request.path}"
        self.asked.append(name)
        said = None if not body else json.loads(body)
        self.bodies.append(said)
        found = self.routes.get(name, (404, {"error": {"message": "Not Found"}}))
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            found = (401, {"error": {"message": "no such key"}})
        status, value = found(said) if callable(found) else found
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        request.send_response(status)
        request.send_header(
            "content-type", "text/event-stream" if data[:5] == b"data:" else "application/json"
        )
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


def chat_answer(message: Mapping[str, Any], **usage: Any) -> dict[str, Any]:
    """A whole chat completion."""
    return {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, **usage},
    }


def tokenizing(encode: Callable[[str], list[int]], field: str = "prompt") -> Answer:
    """A `/tokenize` that cuts as `encode` does."""
    return lambda body: (200, {"tokens": encode(body[field]), "count": len(encode(body[field]))})


def model_list(*entries: Mapping[str, Any]) -> tuple[int, Any]:
    """`/v1/models`."""
    return 200, {"object": "list", "data": [{"object": "model", **entry} for entry in entries]}


def vllm(**changes: Answer) -> dict[str, Answer]:
    """vLLM 0.32 with V4's parsers, without --enable-prompt-tokens-details."""
    return {
        "GET /v1/models": model_list(
            {"id": "deepseek-ai/DeepSeek-V4-Flash-0731", "owned_by": "vllm", "max_model_len": 131_072}
        ),
        "GET /version": (200, {"version": "0.32.0"}),
        "POST /v1/chat/completions": (
            200,
            chat_answer({"content": "Earth", "reasoning": "Easy."}, prompt_tokens_details=None),
        ),
        "POST /v1/completions": (
            200,
            {"choices": [{"text": "B", "token_ids": [34]}], "usage": {"prompt_tokens": 1}},
        ),
        **changes,
    }


def llama(**changes: Answer) -> dict[str, Answer]:
    """llama-server with two slots of 8,192 tokens."""
    return {
        "GET /v1/models": model_list(
            {"id": "v4.gguf", "owned_by": "llamacpp", "meta": {"n_vocab": 129_280, "n_ctx_train": 1_048_576}}
        ),
        "GET /props": (
            200,
            {
                "default_generation_settings": {"n_ctx": 65_536},
                "total_slots": 2,
                "build_info": "b7000-0c1e570",
                "chat_template_caps": {"supports_tools": True},
            },
        ),
        **changes,
    }


def sglang(**changes: Answer) -> dict[str, Answer]:
    """SGLang without a tool parser."""
    return {
        "GET /v1/models": model_list(
            {"id": "deepseek-ai/DeepSeek-V4-Flash", "owned_by": "sglang", "max_model_len": 1_048_576}
        ),
        "GET /get_server_info": (
            200,
            {"version": "0.5.23", "tool_call_parser": None, "reasoning_parser": "deepseek-v4"},
        ),
        **changes,
    }


def transformers() -> dict[str, Answer]:
    """transformers serve where no cache folder exists: its list of models breaks."""
    return {
        "GET /v1/models": (500, {"detail": "Internal Server Error"}),
        "GET /load_model": (405, {"detail": "Method Not Allowed"}),
    }
