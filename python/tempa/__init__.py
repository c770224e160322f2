"""Raw text to a reasoning chat model: tokenizer, corpus tools, training, alignment, generation.

Importing `tempa` is cheap and does not import torch; each public name loads its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tempa._core import TempaError as Error
from tempa._core import __version__

if TYPE_CHECKING:
    from tempa.align.dpo import DpoConfig as DpoConfig
    from tempa.align.dpo import DpoSettings as DpoSettings
    from tempa.align.dpo import dpo as dpo
    from tempa.align.dpo import fit_dpo as fit_dpo
    from tempa.align.grade import Task as Task
    from tempa.align.grpo import GrpoConfig as GrpoConfig
    from tempa.align.grpo import GrpoSettings as GrpoSettings
    from tempa.align.grpo import grpo as grpo
    from tempa.align.policy import fit_policy as fit_policy
    from tempa.align.policy_loss import POLICIES as POLICIES
    from tempa.align.policy_loss import Policy as Policy
    from tempa.align.ppo import PpoConfig as PpoConfig
    from tempa.align.ppo import PpoSettings as PpoSettings
    from tempa.align.ppo import ppo as ppo
    from tempa.align.records import Chat as Chat
    from tempa.align.records import Pair as Pair
    from tempa.align.records import chat_from as chat_from
    from tempa.align.reward import RewardConfig as RewardConfig
    from tempa.align.reward import RewardSettings as RewardSettings
    from tempa.align.reward import fit_reward as fit_reward
    from tempa.align.reward import reward as reward
    from tempa.align.rollout import Learned as Learned
    from tempa.align.rollout import Verified as Verified
    from tempa.align.sft import SftConfig as SftConfig
    from tempa.align.sft import SftSettings as SftSettings
    from tempa.align.sft import fit_sft as fit_sft
    from tempa.align.sft import sft as sft
    from tempa.data.documents import Document as Document
    from tempa.data.documents import read_documents as read_documents
    from tempa.data.duplicates import Duplicates as Duplicates
    from tempa.data.duplicates import dedup as dedup
    from tempa.data.funnel import FunnelReport as FunnelReport
    from tempa.data.loader import Loader as Loader
    from tempa.data.mixture import Mixture as Mixture
    from tempa.data.packed import Packed as Packed
    from tempa.data.rules import Rules as Rules
    from tempa.data.rules import clean as clean
    from tempa.data.shards import Shards as Shards
    from tempa.data.shards import ShardWriter as ShardWriter
    from tempa.data.shards import write_shards as write_shards
    from tempa.engine import Completion as Completion
    from tempa.engine import Engine as Engine
    from tempa.engine import Sampling as Sampling
    from tempa.model import ModelConfig as ModelConfig
    from tempa.model import Transformer as Transformer
    from tempa.model import load_model as load_model
    from tempa.model import save_model as save_model
    from tempa.tokenizer import StreamDecoder as StreamDecoder
    from tempa.tokenizer import StreamEncoder as StreamEncoder
    from tempa.tokenizer import Tokenizer as Tokenizer
    from tempa.tokenizer import load_tokenizer as load_tokenizer
    from tempa.train.loop import fit as fit
    from tempa.train.pretrain import PretrainConfig as PretrainConfig
    from tempa.train.pretrain import pretrain as pretrain
    from tempa.train.run import RunDir as RunDir
    from tempa.train.settings import TrainConfig as TrainConfig
    from tempa.train.stage import Loss as Loss
    from tempa.train.stage import Stage as Stage

# Public name -> the module that defines it.
_EXPORTS = {
    "DpoConfig": "tempa.align.dpo",
    "DpoSettings": "tempa.align.dpo",
    "dpo": "tempa.align.dpo",
    "fit_dpo": "tempa.align.dpo",
    "Task": "tempa.align.grade",
    "GrpoConfig": "tempa.align.grpo",
    "GrpoSettings": "tempa.align.grpo",
    "grpo": "tempa.align.grpo",
    "fit_policy": "tempa.align.policy",
    "POLICIES": "tempa.align.policy_loss",
    "Policy": "tempa.align.policy_loss",
    "PpoConfig": "tempa.align.ppo",
    "PpoSettings": "tempa.align.ppo",
    "ppo": "tempa.align.ppo",
    "Chat": "tempa.align.records",
    "Pair": "tempa.align.records",
    "chat_from": "tempa.align.records",
    "RewardConfig": "tempa.align.reward",
    "RewardSettings": "tempa.align.reward",
    "fit_reward": "tempa.align.reward",
    "reward": "tempa.align.reward",
    "Learned": "tempa.align.rollout",
    "Verified": "tempa.align.rollout",
    "SftConfig": "tempa.align.sft",
    "SftSettings": "tempa.align.sft",
    "fit_sft": "tempa.align.sft",
    "sft": "tempa.align.sft",
    "Document": "tempa.data.documents",
    "Duplicates": "tempa.data.duplicates",
    "FunnelReport": "tempa.data.funnel",
    "Loader": "tempa.data.loader",
    "Mixture": "tempa.data.mixture",
    "Packed": "tempa.data.packed",
    "Rules": "tempa.data.rules",
    "ShardWriter": "tempa.data.shards",
    "Shards": "tempa.data.shards",
    "clean": "tempa.data.rules",
    "dedup": "tempa.data.duplicates",
    "read_documents": "tempa.data.documents",
    "write_shards": "tempa.data.shards",
    "Completion": "tempa.engine",
    "Engine": "tempa.engine",
    "Sampling": "tempa.engine",
    "ModelConfig": "tempa.model",
    "Transformer": "tempa.model",
    "load_model": "tempa.model",
    "save_model": "tempa.model",
    "StreamDecoder": "tempa.tokenizer",
    "StreamEncoder": "tempa.tokenizer",
    "Tokenizer": "tempa.tokenizer",
    "load_tokenizer": "tempa.tokenizer",
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
