"""A tiny tokenizer and a tiny model whose weights are all in use."""

import pytest
import torch

from tempa.chat import render
from tempa.data.packed import Packed
from tempa.model import ModelConfig, Transformer
from tempa.tokenizer import Tokenizer

TEXT = "the cat sat on the mat and the dog sat on the log; one two three four five six seven eight nine ten. "


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train([TEXT * 4], vocab_size=300)


@pytest.fixture
def new_model(tokenizer):
    """Makes the same model again and again."""
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, depth=2, width=32, num_heads=2, max_positions=128)

    def new_model():
        model = Transformer(shape)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            # The modern recipe starts its output projections at zero, which would hide what passes them.
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    return new_model


@pytest.fixture
def model(new_model):
    return new_model()


@pytest.fixture
def stopping_model(model, tokenizer):
    """A model that ends about every fourth token."""
    prompt = render(tokenizer, [{"role": "user", "content": "one"}], add_generation_prompt=True)
    with torch.no_grad():
        # The tied embedding is also the head: a row along the hidden state raises its logit.
        hidden = model.hidden(Packed.from_rows([prompt.ids]))[-1]
        model.embedding.weight[tokenizer.special_tokens["<|end|>"]] = 0.15 * hidden
    return model


@pytest.fixture
def gradient():
    """The gradient of one step as the loop makes it, flat."""

    def gradient(model, stage, step=0):
        for module in (model, *stage.modules().values()):
            module.zero_grad()
        micros, denominator = stage.micro_batches(step)
        for micro in micros:
            (stage.loss(model, micro).total / denominator).backward()
        modules = (model, *stage.modules().values())
        return torch.cat([p.grad.flatten() for m in modules for p in m.parameters() if p.grad is not None])

    return gradient


@pytest.fixture
def relative():
    def relative(a, b):
        return float((a - b).norm() / b.norm())

    return relative
