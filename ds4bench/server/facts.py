"""What a server says of itself, what it counts for operators, and what the method cannot know.

Nothing here measures a reply.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from ds4bench.records.derived import percentile
from ds4bench.server.ask import Server

# Pages on which servers tell who they are: llama.cpp's, vLLM's and SGLang's, ds4's and others'.
PAGES = ("props", "version", "get_server_info", "v1/models")
KEPT = (
    "version",
    "build_info",
    "model_path",
    "total_slots",
    "n_ctx",
    "max_model_len",
    "owned_by",
    "speculative_algorithm",
    "id",
)
PINGS = 5
LIMITS = (
    "times are those of this client: they hold the network, the server's HTTP layer, its "
    "tokenizer and its queue, and rtt_s says how long the shortest request took",
    "what else the server did meanwhile is not known, nor its clocks, temperature and power",
    "a prefix cache can be seen only where the server reports cached tokens; else a cold row "
    "stands on its salt, and a warm one on the request before it",
    "tokens of an event are known only where the server counts along, or sends one in each",
)
# Prometheus counters of vLLM's speculation.
_COUNTERS = {
    "steps": "vllm:spec_decode_num_drafts",
    "drafted": "vllm:spec_decode_num_draft_tokens",
    "accepted": "vllm:spec_decode_num_accepted_tokens",
}
_BY_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"
_LINE = re.compile(r"^([\w:]+?)(?:_total)?(?:\{([^}]*)\})? ([0-9.eE+]+)$", re.MULTILINE)


def facts_of(server: Server) -> dict[str, object]:
    """What its pages say, as far as it has them: few fields, none of them secret."""
    found: dict[str, object] = {"model": server.model}
    for page in PAGES:
        document = server.get(page)
        if isinstance(document, dict) and isinstance(document.get("data"), list):
            entries = [one for one in document["data"] if isinstance(one, dict)]
            named = [one for one in entries if one.get("id") == server.model]
            document = (named or entries or [{}])[0]
        if not isinstance(document, dict):
            continue
        for name in KEPT:
            value = document.get(name)
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                found.setdefault(name, value if isinstance(value, int) else value[:200])
    return found


def round_trip_s(server: Server) -> float | None:
    """Seconds of the median short request, connection included; None if none is answered."""
    taken = []
    for _ in range(PINGS):
        before = time.perf_counter()
        if server.get("v1/models") is None:
            return None
        taken.append(time.perf_counter() - before)
    return percentile(taken, 50)


def speculation(server: Server) -> dict[str, int]:
    """The server's counters of speculation so far; empty where it has none."""
    page = server.get("metrics")
    return read_speculation(page) if isinstance(page, str) else {}


def read_speculation(page: str) -> dict[str, int]:
    """Counters in a Prometheus page: steps, drafted, accepted, and 'accepted 0', 'accepted 1'..."""
    names = {metric: name for name, metric in _COUNTERS.items()}
    found: dict[str, int] = {}
    for metric, labels, value in _LINE.findall(page):
        name = names.get(metric)
        if metric == _BY_POSITION:
            position = re.search(r'position="(\d+)"', labels)
            name = f"accepted {position[1]}" if position else None
        if name is not None:
            found[name] = found.get(name, 0) + int(float(value))
    return found


def since(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """What was counted in between."""
    return {name: value - before.get(name, 0) for name, value in now.items()}
