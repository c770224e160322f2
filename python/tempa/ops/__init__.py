"""Fused operations: one signature each, several backends, references in `tempa.ops.reference`."""

from tempa.ops import adamw_cuda as adamw_cuda  # registers torch.ops.tempa.adamw_
from tempa.ops import glu_cuda as glu_cuda  # registers torch.ops.tempa.activation
from tempa.ops import linear_loss_cuda as linear_loss_cuda  # registers torch.ops.tempa.linear_logp
from tempa.ops import norm_cuda as norm_cuda  # registers torch.ops.tempa.norm and add_norm
from tempa.ops import policy_cuda as policy_cuda  # registers torch.ops.tempa.policy_loss
from tempa.ops import rope_cuda as rope_cuda  # registers torch.ops.tempa.rope and rope_to_cache
from tempa.ops import scan_cuda as scan_cuda  # registers torch.ops.tempa.discounted_sums
from tempa.ops.activations import geglu, relu2, swiglu
from tempa.ops.attention import AttentionSpec, LayerCache, attention
from tempa.ops.linear_loss import linear_cross_entropy, linear_logp, softcap
from tempa.ops.norms import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from tempa.ops.rope import rope, rotations

__all__ = [
    "AttentionSpec",
    "LayerCache",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "geglu",
    "layer_norm",
    "linear_cross_entropy",
    "linear_logp",
    "relu2",
    "rms_norm",
    "rope",
    "rotations",
    "softcap",
    "swiglu",
]
