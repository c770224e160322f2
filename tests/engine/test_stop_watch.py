from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tempa.engine.text import StopWatch
from tempa.tokenizer import Tokenizer

# Characters of one to four bytes, one byte per token: every character but "a" and "b" spans tokens.
BYTES = Tokenizer.train(["x"], vocab_size=256, special_tokens=())


@given(
    text=st.text("abé€😀", max_size=12), stops=st.lists(st.text("abé€😀", min_size=1, max_size=4), max_size=3)
)
def test_pieces_join_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    watch, pieces, settled = StopWatch(BYTES, stops), [], 0
    for token in BYTES.encode(text):
        pieces.append(watch.push(token))
        settled += 1
        if watch.stopped:
            break
    pieces.append(watch.flush())
    seen = BYTES.decode(BYTES.encode(text)[:settled])
    places = [seen.find(stop) for stop in stops if stop in seen]
    assert watch.stopped == any(stop in text for stop in stops)
    assert "".join(pieces) == (seen[: min(places)] if places else text)
