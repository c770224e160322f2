"""Personal data: what is found, what only looks like it, and what the report says."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.data.documents import Document
from tempa.data.funnel import FunnelReport
from tempa.data.pii import Found, find_pii, mask_pii


def masked(text, *kinds):
    (document,) = mask_pii([Document(text, "here")], *([kinds] if kinds else []))
    return document.text


def test_places_are_counted_in_characters():
    assert find_pii("é漢🙂 8.8.4.99, a@b.org") == [Found("ip", 4, 12), Found("email", 14, 21)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Card: 4111 1111 1111 1111.", "Card: <CARD>."),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN <IBAN>"),
        ("(212) 555-0147 or +49 30 901820", "<PHONE> or <PHONE>"),
        ("the key AKIAIOSFODNN7EXAMPLE is old", "the key <KEY> is old"),
        ("version 1.2.3.4 at 12:30:45 on 2026-11-21, see icon@2x.png", None),
        ("192.168.0.1, 4111 1111 1111 1112, DE89 3704 0044 0532 0130 01", None),
    ],
)
def test_form_and_checksum_decide(text, expected):
    assert masked(text) == (expected or text)


def is_card(digits):
    """Issuer and length by their patterns, then the check digit as Luhn defines it."""
    issuers = r"(4|5[1-5]|6[25]|6011|64[4-9])\d+|3[47]\d{13}|3[689]\d{12}|30[0-5]\d{11}"
    is_series = len(digits) == 16 and (2221 <= int(digits[:4]) <= 2720 or 3528 <= int(digits[:4]) <= 3589)
    if (not is_series and not re.fullmatch(issuers, digits)) or (len(digits) != 16 and digits[0] != "3"):
        return False
    doubled = [int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(digits))]
    return sum(digit // 10 + digit % 10 for digit in doubled) % 10 == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["4", "51", "34", "36", "302", "6011", "62", "2221", "3530", "9"]),
            st.integers(13, 19),
        ),
        max_size=5,
    ).flatmap(
        lambda forms: st.tuples(
            *(
                st.text("0123456789", min_size=n, max_size=n).map(
                    lambda tail, start=start, n=n: (start + tail)[:n]
                )
                for start, n in forms
            )
        )
    )
)
def test_cards_are_those_of_the_reference(numbers):
    # With every last digit, so that one of ten is right.
    numbers = [number[:-1] + str(digit) for number in numbers for digit in range(10)]
    text = " | ".join(numbers)
    found = [text[place.start : place.stop] for place in find_pii(text, ["card"])]
    assert found == [number for number in numbers if is_card(number)]


def test_only_the_kinds_that_are_named_are_replaced():
    assert masked("a@b.org 8.8.8.88", "ip") == "a@b.org <IP>"
    with pytest.raises(ValueError, match='kinds must be of email, phone, ip, card, iban, key, got "name"'):
        mask_pii([], ["name"])


def test_the_report_counts_what_was_replaced_and_adds_up():
    report = FunnelReport()
    documents = [Document("a@b.org, c@d.org", "one"), Document("nothing here", "two")]
    texts = [document.text for document in mask_pii(documents, report=report)]
    assert texts == ["<EMAIL>, <EMAIL>", "nothing here"]
    (stage,) = report.stages
    assert stage.replaced == {"email": 2, "phone": 0, "ip": 0, "card": 0, "iban": 0, "key": 0}
    assert stage.input.bytes == stage.output.bytes + stage.rewritten_bytes
    assert report.to_dict()["stages"][0]["replaced"]["email"] == 2
