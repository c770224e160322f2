"""Settings of the server, and its key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

# Where the key may stand instead of a file. An option would show it in lists of processes.
KEY_VARIABLE = "TEMPA_API_KEY"

Weights: TypeAlias = Literal["auto", "float32", "bfloat16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Settings of `tempa serve`.

    Attributes:
        model: A model, checkpoint or run directory.
        host: Address to listen at; 0.0.0.0 is every one, which needs a key.
        port: 0 takes a free one.
        name: What clients call the model; the name of the directory if empty.
        api_key_file: File that holds the key which requests must bring; TEMPA_API_KEY is used without it.
        allow_hosts: Names of this server that requests may use. Without any, those of this machine when
            listening to it alone, so that a page elsewhere cannot pass for it, and else all.
        allow_origins: Pages of other origins that may call the server, each a scheme and a name.
        preferences: File of pairs for `tempa dpo`, to which the chat page adds; none are taken without it.
        device: Where to run.
        weights: How matrices are kept; bfloat16 and int8 are faster and change the logits. "auto" is float32
            on the CPU and bfloat16 on a GPU, which takes no int8.
        cache_bytes: Most memory for keys and values.
        max_batch: Most samples that advance together.
        max_request_bytes: The largest body of a request; 413 above.
        max_prompt_tokens: The longest prompt; 0 means what the model takes.
        max_tokens: Most new tokens of a sample, and how many a chat gets that names no number.
        max_samples: Most samples of a request: its prompts times n.
        max_queue: Requests that may wait for their first token; 429 above.
        max_buffer: Tokens that may wait for a client that reads slowly; then it is cut off.
        max_request_s: The longest time of a request, waiting included.
        max_stall_s: How long a client may leave its connection full, or its body unfinished.
        drain_s: How long running requests have after SIGTERM.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = ""
    api_key_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    preferences: Path | None = None
    device: str = "auto"
    weights: Weights = "auto"
    cache_bytes: int = 4 << 30
    max_batch: int = 256
    max_request_bytes: int = 4 << 20
    max_prompt_tokens: int = 0
    max_tokens: int = 1024
    max_samples: int = 16
    max_queue: int = 256
    max_buffer: int = 4096
    max_request_s: float = 300.0
    max_stall_s: float = 30.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        for name in ("max_request_bytes", "max_tokens", "max_samples", "max_queue", "max_buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_prompt_tokens < 0:
            raise ValueError(f"max_prompt_tokens must be 0 or positive, got {self.max_prompt_tokens}")
        for name in ("max_request_s", "max_stall_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.drain_s >= 0:
            raise ValueError(f"drain_s must not be negative, got {self.drain_s}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in ("127.0.0.1", "::1", "localhost")


def read_api_key(config: ServeConfig) -> str | None:
    """The key of the file, else that of the environment, if there is one.

    Raises:
        ValueError: If it is empty or has a character that a header cannot carry, or if other machines can
            connect and there is no key.
        OSError: If the file cannot be read.
    """
    if config.api_key_file is not None:
        key: str | None = config.api_key_file.read_text(encoding="utf-8").strip()
        place = str(config.api_key_file)
    else:
        key, place = os.environ.get(KEY_VARIABLE), KEY_VARIABLE
    if key is None:
        if not config.is_local:
            raise ValueError(
                f"listening at {config.host} lets other machines in: set {KEY_VARIABLE} or --api-key-file"
            )
        return None
    # The key itself is not shown.
    if not key or not all("!" <= char <= "~" for char in key):
        raise ValueError(f"{place}: a key is one line of printable ASCII characters without spaces")
    return key
