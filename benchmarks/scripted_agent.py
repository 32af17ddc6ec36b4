"""The agentic operator at work, with no key and no network: a scripted model behind a real server.

    python benchmarks/scripted_agent.py [FOLDER]

Copies kernels/cpu/quickstart.py into FOLDER (default: a temporary one), starts a server on this machine that speaks
chat completions, and runs `pytest --avo-evolve` against it, as against any other server. The model's answers are
written down below: it reads, errs, repairs, measures and submits; it is wrong about one idea and repeats it, and the
supervisor steers it elsewhere. Everything else is real: the tools, the evaluations, the verdicts and the figures. It
shows how a run looks, not what a model is worth.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KERNEL = Path("kernels", "cpu", "quickstart.py")
Call = tuple[str, dict[str, Any]]

SCALED = "tile = (q[:, :, first:last].to(dtype) * scale)"
UNSCALED = "tile = q[:, :, first:last].to(dtype)"
EVALUATE: Call = ("evaluate_draft", {"timed": True})


def edit(search: str, replacement: str) -> Call:
    return "edit_draft", {"replacements": [{"search": search, "replacement": replacement}]}


def lesson(text: str, technique: str, symptom: str) -> Call:
    return "record_lesson", {"text": text, "technique": technique, "symptom": symptom}


def submit(hypothesis: str, geomean: float, **predicted: float) -> Call:
    shapes = {name.replace("_", "-"): ratio for name, ratio in predicted.items()}
    return "submit", {"hypothesis": hypothesis, "predicted": {"geomean": geomean, **shapes}}


# A list of steps; a step is a list of answers, an answer a list of calls.
STEPS: list[list[list[Call]]] = [
    [
        [("list_versions", {}), ("search_knowledge", {"query": "decode query heads share keys", "limit": 2})],
        [edit("GROUP_HEADS=False", "GROUP_HEADS = True")],  # the draft does not read so
        [edit("GROUP_HEADS = False", "GROUP_HEADS = True"), edit(SCALED, UNSCALED), ("evaluate_draft", {})],  # wrong
        [edit(UNSCALED, SCALED), EVALUATE],
        [
            lesson(
                "Stacking the query heads that share keys reads each key once; decoding gains most.",
                "grouped heads",
                "keys read once per query head",
            ),
            submit(
                "decoding is bound by reading keys, which every query head repeats: stack the heads",
                1.5,
                b1_h16kv2_q1_k4096_d64_full_f32=4.0,
                b1_h4_q256_k256_d64_causal_f32=1.0,
            ),
        ],
    ],
    [
        [edit("BLOCK_Q = 32 ", "BLOCK_Q = 128 "), edit("BLOCK_K = 128 ", "BLOCK_K = 8192 "), EVALUATE],
        [submit("tiles of 32 queries and 128 keys leave the time to Python: fewer, larger products", 2.0)],
    ],
    [
        [edit('ACCUMULATE = "float32"', 'ACCUMULATE = "float64"')],
        [
            lesson("float64 halves the rate of every product.", "wider accumulator", "slower everywhere"),
            submit("a wider accumulator saves rescaling", 1.2),
        ],
    ],
    [
        [edit('ACCUMULATE = "float32"  # type', 'ACCUMULATE = "float64"  # the type'), EVALUATE],
        [submit("a wider accumulator, once more", 1.2)],
        [submit("a wider accumulator, once more", 1.2)],  # it was told that this has been tried
    ],
    [
        [edit("SKIP_HIDDEN_KEYS = False", "SKIP_HIDDEN_KEYS = True"), EVALUATE],
        [submit("half of a causal tile's keys are hidden: leave them out", 1.15)],
    ],
    [
        [("search_lessons", {"query": "softmax passes"}), edit('SOFTMAX = "passes"', 'SOFTMAX = "fused"'), EVALUATE],
        [submit("the softmax goes over the scores four times: let torch fuse it", 1.2)],
    ],
]
REVIEW = {
    "diagnosis": "Two attempts went into a wider type, which costs time everywhere. Hidden keys and the passes of the "
    "softmax over memory are untouched.",
    "directions": [
        {"title": "do no work on hidden keys", "why": "three of five shapes are causal", "expected": "causal 1.2x"},
        {"title": "fewer passes over the scores", "why": "max, exp, sum and division are separate passes"},
    ],
}


class Model(BaseHTTPRequestHandler):
    """Answers a conversation from its step and its length alone, so that an interrupted run can be resumed."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(completion(request)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the run itself is what is to be seen."""


def completion(request: dict[str, Any]) -> dict[str, Any]:
    """The chat completion that answers a request."""
    messages = request["messages"]
    if not request.get("tools"):
        message: dict[str, Any] = {"role": "assistant", "content": json.dumps(REVIEW)}
    else:
        found = re.search(r"^# Step (\d+)", messages[1]["content"], re.MULTILINE)
        answers = STEPS[(int(found[1]) if found else 1) - 1]
        turn = sum(each["role"] == "assistant" for each in messages)
        message = {"role": "assistant", "content": "", "tool_calls": tool_calls(answers[min(turn, len(answers) - 1)])}
    tokens_in, tokens_out = len(json.dumps(messages)) // 4, len(json.dumps(message)) // 4
    return {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [
            {"index": 0, "finish_reason": "tool_calls" if message.get("tool_calls") else "stop", "message": message}
        ],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }


def tool_calls(calls: list[Call]) -> list[dict[str, Any]]:
    return [
        {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for number, (name, arguments) in enumerate(calls)
    ]


def main(folder: Path) -> int:
    """Run the evolution in a folder; its exit status."""
    kernel = folder / KERNEL
    kernel.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parents[1] / KERNEL, kernel)
    (folder / "pytest.ini").write_text("[pytest]\navo_price_input = 1.00\navo_price_output = 4.00\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--avo-evolve", str(KERNEL)]
    command += ["--generations", str(len(STEPS)), "--avo-model", "scripted", "--avo-base-url", url, "--avo-stall", "2"]
    command += ["--avo-directions", "2", "--avo-max-tokens", "1000000", "--avo-max-cost", "1.00"]
    status = subprocess.run(command, cwd=folder).returncode
    server.shutdown()
    return status


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1]).resolve()))
    with tempfile.TemporaryDirectory(prefix="pytest-avo-scripted-") as temporary:
        sys.exit(main(Path(temporary)))
