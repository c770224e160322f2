"""What `measure_fit` counts, and the table it prints."""

from __future__ import annotations

from tempa.tokenizer import Tokenizer, measure_fit


def test_sources_are_counted_each_and_together() -> None:
    tokenizer = Tokenizer.train(["low lower lowest " * 9], vocab_size=270)
    texts = {"a": ["low lower", "é"], "b": ["lowest"], "empty": []}
    fit = measure_fit(tokenizer, texts)
    for name, source in fit.sources.items():
        ids = [token for text in texts[name] for token in tokenizer.encode(text)]
        assert source.counts.tolist() == [ids.count(token) for token in range(len(tokenizer))]
        assert source.num_bytes == sum(len(text.encode()) for text in texts[name])
        assert source.num_tokens == len(ids)
        assert source.bytes_per_token == source.num_bytes / max(len(ids), 1)
    assert fit.total.num_tokens == sum(source.num_tokens for source in fit.sources.values())
    assert fit.total.num_bytes == 17


def test_unused_and_longest_tokens_are_ordinary() -> None:
    tokenizer = Tokenizer.train(["abab abab"], vocab_size=263, special_tokens=["<|a longer name|>"])
    fit = measure_fit(tokenizer, {"all": ["abab"]}, num_threads=1)
    used = set(tokenizer.encode("abab"))
    specials = set(tokenizer.special_tokens.values())
    assert set(fit.unused()) == set(range(len(tokenizer))) - used - specials
    lengths = [len(tokenizer.token_bytes(token)) for token in fit.longest(300)]
    assert lengths == sorted(lengths, reverse=True)
    assert not specials & set(fit.longest(300))


def test_the_table_has_a_row_for_each_source_and_one_for_all() -> None:
    tokenizer = Tokenizer.train(["low lower lowest " * 9], vocab_size=270)
    done: list[int] = []
    fit = measure_fit(tokenizer, {"plays": ["low low"], "sums": ["1 + 1"]}, progress=done.append)
    names = [line.split()[0] for line in str(fit).splitlines()]
    assert names == ["source", "plays", "sums", "all", "unused:", "longest:"]
    assert done == [7, 12]
    assert "' lowest'" in str(fit)
