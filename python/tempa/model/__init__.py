"""The decoder-only Transformer: configuration, modules, saving and loading."""

from tempa.model.cache import KvCache
from tempa.model.config import ModelConfig
from tempa.model.decoder import Decoder
from tempa.model.state import weights_checksum
from tempa.model.store import load_model, load_scalar, save_model
from tempa.model.transformer import ScalarHead, Transformer

__all__ = [
    "Decoder",
    "KvCache",
    "ModelConfig",
    "ScalarHead",
    "Transformer",
    "load_model",
    "load_scalar",
    "save_model",
    "weights_checksum",
]
