use proptest::prelude::*;

use super::*;

fn found(text: &str, kinds: &[Kind]) -> Vec<Span> {
    let mut found = vec![Span { start: 7, end: 8, kind: Kind::Key }];
    find(text, kinds, &mut found);
    found
}

/// The text as it is after masking, written over what the buffers had.
fn masked_as(text: &str, kinds: &[Kind]) -> String {
    let (mut spans, mut masked) = (Vec::new(), "before".to_owned());
    if mask(text, kinds, &mut spans, &mut masked) { masked } else { text.to_owned() }
}

fn masked(text: &str) -> String {
    masked_as(text, &Kind::ALL)
}

#[test]
fn everything_personal_is_replaced() {
    for (text, expected) in [
        ("Write to Jo.Doe+x@mail.example.co.uk.", "Write to <EMAIL>."),
        ("<a@b.org>, 邮箱a@b.org。", "<<EMAIL>>, 邮箱<EMAIL>。"),
        ("call +44 20 7946 0958 now", "call <PHONE> now"),
        ("+49 (30) 901820", "<PHONE>"),
        ("(212) 555-0147, 1-212-555-0147 or 212.555.0147.", "<PHONE>, <PHONE> or <PHONE>."),
        ("1 (212) 555-0147", "<PHONE>"),
        ("from 208.8.4.4: and 2a00:1450:4001:81b::200e.", "from <IP>: and <IP>."),
        ("card 4111 1111 1111 1111 12/27", "card <CARD> 12/27"),
        ("4111-1111-1111-1111, 378282246310005.", "<CARD>, <CARD>."),
        ("DE89 3704 0044 0532 0130 00 and GB29NWBK60161331926819", "<IBAN> and <IBAN>"),
        ("key=AKIAIOSFODNN7EXAMPLE;", "key=<KEY>;"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQ\n-----END PGP PRIVATE KEY BLOCK-----", "<KEY>"),
        ("3782 822463 10005 and 3056 930902 5904 9/27", "<CARD> and <CARD> 9/27"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "<KEY>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n", "<KEY>\n"),
    ] {
        assert_eq!(masked(text), expected, "{text}");
    }
}

#[test]
fn what_only_looks_personal_is_kept() {
    for text in [
        "@user, a@b, icon@2x.png, x@.com, trailing.@a.org, 5 @ 3.50",
        "getty@tty1.service, git@host.org:path/of.git",
        "1.2.3, version 1.2.3.99, v1.2.3.99, 1.2.3.4.99, section 12.4.1.63, 256.1.1.1, 01.2.3.4",
        "192.168.0.1 127.0.0.1 10.1.2.3 0.0.0.0 192.0.2.7 255.255.255.0",
        "4111 1111 1111 1111 1111, 5 4111 1111 1111 1111, 411 1111 1111 1111 11, 6473547110565816071",
        "+35236450.6, +922337203685477.5807, +12,345,678,901",
        "-----BEGIN RSA PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nMI\n-----END CERTIFICATE-----",
        "12:30:45, std::vec::Vec, a::b, ::1, fe80::1:2:3, 2001:db8::1:2, aa:bb:cc:dd:ee:ff",
        "4111 1111 1111 1112, 1234567890123456, 3.4111111111111111, x4111111111111111",
        "212-555-01478, 112-555-0147, 2026-11-21, 3+4567890123, +0 123 456 789, 212 555 0147, 1999-2004",
        "DE89 3704 0044 0532 0130 01, XX89370400440532013000, DE8937040044053201300",
        "sk-fading-circle-with-many-dots-and-more-words, AKIA, eyJhbGciOiJIUzI1NiJ9, hf_hub_download",
        "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
        "ISBN 978-3-16-148410-0, $1,234,567.89, 1 000 000 000",
    ] {
        assert_eq!(masked(text), text);
    }
}

#[test]
fn only_the_kinds_that_are_asked_for_are_replaced() {
    let text = "a@b.org 8.8.8.98";
    assert_eq!(masked_as(text, &[Kind::Ip]), "a@b.org <IP>");
    assert_eq!(masked_as(text, &[]), text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn spans_are_in_order_and_the_rest_is_kept(text in "([0-9]{1,5}|[+.@:() -]|[a-fA-F]{1,3}|DE89|é|漢|a@b\\.org|::)*") {
        let spans = found(&text, &Kind::ALL);
        prop_assert!(spans.iter().all(|span| span.start < span.end));
        prop_assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let removed: usize = spans.iter().map(|span| span.end - span.start).sum();
        let added: usize = spans.iter().map(|span| span.kind.placeholder().len()).sum();
        prop_assert_eq!(masked(&text).len() + removed, text.len() + added);
    }

    #[test]
    fn every_address_is_found_wherever_it_stands(before in "[ ,(漢]{0,70}", a in 64u8..=99, rest: [u8; 3], after in "[ ,)漢]{0,3}") {
        let address = format!("{a}.{}.{}.{}", rest[0], rest[1], rest[2]);
        let spans = found(&format!("{before}{address}{after}"), &[Kind::Ip]);
        prop_assert_eq!(spans, vec![Span { start: before.len(), end: before.len() + address.len(), kind: Kind::Ip }]);
    }
}
