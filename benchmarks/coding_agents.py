"""Real coding agents as the operator, with no key and no network: their model is a script behind a server.

    python benchmarks/coding_agents.py claude|codex|gemini|opencode|mini-swe-agent [FOLDER]

Copies kernels/cpu/quickstart.py into FOLDER (default: a temporary one), starts a server on this machine that speaks
chat completions, responses, messages and Gemini's protocol, points the agent at it, and runs an evolution of four
generations with it. The program must be on PATH (npm: @anthropic-ai/claude-code, @openai/codex, @google/gemini-cli,
opencode-ai; PyPI: mini-swe-agent). The model looks, edits, evaluates and submits through its shell, whatever the
agent calls that; all else is real. It shows that a preset fits the program of today, not what a model is worth.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KERNEL = Path("kernels", "cpu", "quickstart.py")
GENERATIONS = 4
TASK_ENDS = "avo submit"
"""Stands in every prompt of a step, and in no result of the commands before the last."""
CHOICES = (
    "s/^SKIP_HIDDEN_KEYS = False/SKIP_HIDDEN_KEYS = True/",
    "s/^GROUP_HEADS = False/GROUP_HEADS = True/",
    's/^SOFTMAX = "passes"/SOFTMAX = "fused"/',
    "s/^BLOCK_Q = 32/BLOCK_Q = 128/",
)
# No command substitution: gemini-cli refuses commands that have one.
EDIT = (
    "; ".join(
        f"grep -q '^# Generation {number},' TASK.md && sed -i '{choice}' draft.py"
        for number, choice in enumerate(CHOICES, 1)
    )
    + "; avo eval --quick"
)
COMMANDS = (
    "sed -n 1,12p TASK.md; avo status",
    EDIT,
    "avo eval --for 20; avo wait --for 5; true",
    'avo submit -m "the choice of this generation costs time: change it" --predict 1.3',
)
SHELLS = ("Bash", "bash", "shell", "shell_command", "exec_command", "run_shell_command")
SCHEMAS = ("parameters", "input_schema", "parametersJsonSchema")
NUMBERS = itertools.count(1)
DONE = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""How mini-swe-agent ends; the others end with an answer that calls no tool."""


class Model(BaseHTTPRequestHandler):
    """Answers a conversation from the number of tool results since the step's prompt."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "enerateContent" in self.path:
            answer = json.dumps(generated(request))
            streamed = "stream" in self.path
            self._send(
                "text/event-stream" if streamed else "application/json", f"data: {answer}\n\n" if streamed else answer
            )
        elif "countTokens" in self.path:
            self._send("application/json", json.dumps({"totalTokens": len(json.dumps(request)) // 4}))
        elif "/messages" in self.path:
            kind = "text/event-stream" if request.get("stream") else "application/json"
            answer = message(request)
            self._send(kind, message_events(answer) if request.get("stream") else json.dumps(answer))
        elif self.path.endswith("/responses"):
            self._send("text/event-stream", events(responses(request)))
        elif request.get("stream"):
            self._send("text/event-stream", stream(completion(request)))
        else:
            self._send("application/json", json.dumps(completion(request)))

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"object": "list", "data": [{"id": "scripted", "object": "model"}]}))

    def _send(self, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the run itself is what is to be seen."""


def turn(messages: list[dict[str, Any]]) -> int:
    """Tool results since the prompt of the step."""
    count = 0
    for message in messages:
        if message.get("role") == "user" and TASK_ENDS in json.dumps(message.get("content")):
            count = 0
        count += message.get("role") == "tool" or message.get("type") == "function_call_output"
        parts = message.get("content")
        count += sum(each.get("type") == "tool_result" for each in parts) if isinstance(parts, list) else 0
    return count


def shell_call(tools: list[dict[str, Any]], command: str) -> tuple[str, dict[str, Any]] | None:
    """A call of whatever the agent's shell is called; None where it offers none (it asks for a title, say)."""
    for tool in tools:
        function = tool.get("function", tool)
        schema = next((function[name] for name in SCHEMAS if name in function), {})
        known = schema.get("properties", {})
        if function.get("name") in SHELLS:
            name = "cmd" if "cmd" in known else "command"
            value: Any = ["bash", "-c", command] if known[name].get("type") == "array" else command
            said = {"description": "work on the step"} if "description" in known else {}
            slow = {key: 60_000 for key in ("timeout", "timeout_ms", "yield_time_ms") if key in known}
            return function["name"], {name: value, **said, **slow}
    return None


def generated(request: dict[str, Any]) -> dict[str, Any]:
    """The content, in Gemini's protocol, that answers a request."""
    done = 0
    for content in request["contents"]:
        parts = content.get("parts", [])
        if any(TASK_ENDS in part.get("text", "") for part in parts):
            done = 0
        done += sum("functionResponse" in part for part in parts)
    tools = [each for tool in request.get("tools") or [] for each in tool.get("functionDeclarations", [])]
    call = shell_call(tools, COMMANDS[done]) if done < len(COMMANDS) else None
    part: dict[str, Any] = {"text": "The step is done."}
    if request.get("generationConfig", {}).get("responseMimeType") == "application/json":
        part = {"text": "{}"}
    if call:
        part = {"functionCall": {"name": call[0], "args": call[1]}}
    tokens_in = len(json.dumps(request["contents"])) // 4
    usage = {"promptTokenCount": tokens_in, "candidatesTokenCount": 50, "totalTokenCount": tokens_in + 50}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODELS["gemini"]}


def next_call(request: dict[str, Any], messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]] | None:
    done = turn(messages)
    commands = (*COMMANDS, DONE) if os.environ["AGENT"] == "mini-swe-agent" else COMMANDS
    return shell_call(request.get("tools") or [], commands[done]) if done < len(commands) else None


def completion(request: dict[str, Any]) -> dict[str, Any]:
    """The chat completion that answers a request."""
    call = next_call(request, request["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": "" if call else "The step is done."}
    if call:
        function = {"name": call[0], "arguments": json.dumps(call[1])}
        number = f"call-{len(request['messages'])}"
        message["tool_calls"] = [{"index": 0, "id": number, "type": "function", "function": function}]
    tokens_in, tokens_out = len(json.dumps(request["messages"])) // 4, len(json.dumps(message)) // 4
    return {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{"index": 0, "finish_reason": "tool_calls" if call else "stop", "message": message}],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }


def stream(answer: dict[str, Any]) -> str:
    """A completion in the chunks of a stream."""
    choice = answer["choices"][0]
    head = {**answer, "object": "chat.completion.chunk", "usage": None}
    deltas = [(choice["message"], None), ({}, choice["finish_reason"])]
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas]
    chunks.append({**head, "choices": [], "usage": answer["usage"]})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def responses(request: dict[str, Any]) -> dict[str, Any]:
    """The response, in OpenAI's newer protocol, that answers a request."""
    call = next_call(request, request["input"])
    if call:
        number = f"call-{len(request['input'])}"
        item = {"type": "function_call", "id": f"fc-{number}", "call_id": number, "name": call[0]}
        item["arguments"] = json.dumps(call[1])
    else:
        content = [{"type": "output_text", "text": "The step is done.", "annotations": []}]
        item = {"type": "message", "id": "msg-1", "role": "assistant", "status": "completed", "content": content}  # type: ignore[dict-item]
    tokens_in = len(json.dumps(request["input"])) // 4
    usage = {"input_tokens": tokens_in, "output_tokens": 50, "total_tokens": tokens_in + 50}
    return {"id": "resp-1", "object": "response", "status": "completed", "output": [item], "usage": usage}


def message(request: dict[str, Any]) -> dict[str, Any]:
    """The message, in Anthropic's protocol, that answers a request."""
    call = next_call(request, request["messages"])
    number = f"call-{next(NUMBERS)}"  # what repeats an id is taken for the same message
    if call:
        part: dict[str, Any] = {"type": "tool_use", "id": number, "name": call[0], "input": call[1]}
    else:
        part = {"type": "text", "text": "The step is done."}
    usage = {"input_tokens": len(json.dumps(request["messages"])) // 4, "output_tokens": 50}
    head = {
        "id": f"msg-{number}",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "stop_sequence": None,
    }
    return {**head, "content": [part], "stop_reason": "tool_use" if call else "end_turn", "usage": usage}


def message_events(answer: dict[str, Any]) -> str:
    """A message as the events of its stream."""
    (part,) = answer["content"]
    if part["type"] == "tool_use":
        empty: dict[str, Any] = {**part, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(part["input"])}
    else:
        empty, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": part["text"]}
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**answer, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": answer["stop_reason"]}, "usage": answer["usage"]},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in said)


def events(response: dict[str, Any]) -> str:
    """A response as the events of its stream."""
    said: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": response["id"]}},
        *({"type": "response.output_item.done", "output_index": 0, "item": item} for item in response["output"]),
        {"type": "response.completed", "response": response},
    ]
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in said)


def environment(agent: str, url: str, home: Path) -> dict[str, str]:
    """What points an agent at the server, and keeps it away from the user's own settings."""
    own = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "OPENAI_API_KEY": "none-is-needed"}
    if agent == "claude":
        own |= {"ANTHROPIC_BASE_URL": url.removesuffix("/v1"), "ANTHROPIC_API_KEY": "none-is-needed"}
        own |= {"CLAUDE_CONFIG_DIR": str(home), "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1"}
        own["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    if agent == "codex":
        provider = f'[model_providers.scripted]\nname = "scripted"\nbase_url = "{url}"\nwire_api = "responses"\n'
        (home / "config.toml").write_text(f'model_provider = "scripted"\n{provider}', encoding="utf-8")
        own["CODEX_HOME"] = str(home)
    if agent == "gemini":
        own |= {"GEMINI_API_KEY": "none-is-needed", "GOOGLE_GEMINI_BASE_URL": url.removesuffix("/v1")}
        auth = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
        settings = {**auth, "privacy": {"usageStatisticsEnabled": False}, "general": {"disableAutoUpdate": True}}
        (home / ".gemini").mkdir(exist_ok=True)
        (home / ".gemini" / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    if agent == "opencode":
        options = {"baseURL": url, "apiKey": "none-is-needed"}
        provider_of = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"scripted": {}}}
        own["OPENCODE_CONFIG_CONTENT"] = json.dumps({"provider": {"scripted": provider_of}, "autoupdate": False})
    if agent == "mini-swe-agent":
        own |= {"OPENAI_API_BASE": url, "MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors"}
        own["MSWEA_GLOBAL_CONFIG_DIR"] = str(home)
    return own


MODELS = {
    "claude": "scripted",
    "codex": "scripted",
    "gemini": "gemini-2.5-flash",
    "opencode": "scripted/scripted",
    "mini-swe-agent": "openai/scripted",
}


def main() -> int:
    agent = sys.argv[1] if len(sys.argv) > 1 else ""
    if agent not in MODELS:
        print(f"expected one of {', '.join(MODELS)}")
        return 2
    os.environ["AGENT"] = agent
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix=f"avo-{agent}-"))
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parent.parent / KERNEL, folder)
    (folder / "pytest.ini").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    command = [sys.executable, "-m", "pytest", "--avo-evolve", KERNEL.name, "--generations", str(GENERATIONS)]
    command += ["--avo-operator", "coding-agent", "--avo-agent", agent, "--avo-model", MODELS[agent]]
    command += ["--avo-shapes", "smoke", "--avo-peers", "none", "--avo-step-time", "5min", "--avo-max-rounds", "8"]
    print(f"in {folder}: {' '.join(command)}", flush=True)
    status = subprocess.run(command, cwd=folder, env=environment(agent, url, home)).returncode
    server.shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
