"""Raw text to a reasoning chat model: tokenizer, corpus tools, training, alignment, generation.

Importing `tempa` is cheap and does not import torch; each public name loads its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tempa._core import TempaError as Error
from tempa._core import __version__

if TYPE_CHECKING:
    from tempa.data.documents import Document as Document
    from tempa.data.documents import read_documents as read_documents
    from tempa.data.loader import Loader as Loader
    from tempa.data.packed import Packed as Packed
    from tempa.data.shards import Shards as Shards
    from tempa.data.shards import ShardWriter as ShardWriter
    from tempa.engine import Completion as Completion
    from tempa.engine import Engine as Engine
    from tempa.engine import Sampling as Sampling
    from tempa.model import ModelConfig as ModelConfig
    from tempa.model import Transformer as Transformer
    from tempa.model import load_model as load_model
    from tempa.model import save_model as save_model
    from tempa.tokenizer import StreamDecoder as StreamDecoder
    from tempa.tokenizer import Tokenizer as Tokenizer
    from tempa.train.loop import fit as fit
    from tempa.train.pretrain import PretrainConfig as PretrainConfig
    from tempa.train.pretrain import pretrain as pretrain
    from tempa.train.run import RunDir as RunDir
    from tempa.train.settings import TrainConfig as TrainConfig
    from tempa.train.stage import Loss as Loss
    from tempa.train.stage import Stage as Stage

# Public name -> the module that defines it.
_EXPORTS = {
    "Document": "tempa.data.documents",
    "Loader": "tempa.data.loader",
    "Packed": "tempa.data.packed",
    "ShardWriter": "tempa.data.shards",
    "Shards": "tempa.data.shards",
    "read_documents": "tempa.data.documents",
    "Completion": "tempa.engine",
    "Engine": "tempa.engine",
    "Sampling": "tempa.engine",
    "ModelConfig": "tempa.model",
    "Transformer": "tempa.model",
    "load_model": "tempa.model",
    "save_model": "tempa.model",
    "StreamDecoder": "tempa.tokenizer",
    "Tokenizer": "tempa.tokenizer",
    "Loss": "tempa.train.stage",
    "PretrainConfig": "tempa.train.pretrain",
    "RunDir": "tempa.train.run",
    "Stage": "tempa.train.stage",
    "TrainConfig": "tempa.train.settings",
    "fit": "tempa.train.loop",
    "pretrain": "tempa.train.pretrain",
}

__all__ = ["Error", "__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    try:
        module = importlib.import_module(_EXPORTS[name])
    except KeyError:
        raise AttributeError(f"module 'tempa' has no attribute {name!r}") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
