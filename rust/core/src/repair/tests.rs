use proptest::prelude::*;

use super::*;

fn repaired(text: &str) -> String {
    let mut scratch = Scratch { before: "before".into(), after: "after".into(), ..Scratch::default() };
    repair(text, &mut scratch).map_or(text, |(text, _)| text).to_owned()
}

/// What UTF-8 becomes when it is read as Windows-1252, or as Latin-1.
fn misread(text: &str, is_windows: bool) -> String {
    let char_of = |byte: u8| match byte {
        0x80..=0x9f if is_windows => mojibake::WINDOWS[usize::from(byte) - 0x80],
        _ => char::from(byte),
    };
    text.bytes().map(char_of).collect()
}

#[test]
fn damage_is_undone() {
    for (text, expected) in [
        ("cafÃ©", "café"),
        ("donâ€™t, â€œreallyâ€\u{9d} â€” 5 â‚¬â„¢", "don’t, “really” — 5 €™"),
        ("ÃƒÂ©tÃƒÂ©, itÃ¢â‚¬â„¢s", "été, it’s"),
        ("Ã–sterreich, HÃ”TEL, SÃ³crates", "Österreich, HÔTEL, Sócrates"),
        ("20Â°C Â© 2020Â\u{a0}x", "20°C © 2020\u{a0}x"),
        ("siÄ™ dÅ‚ugo", "się długo"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("â†’ 2 Ã— 3 Ã… ABIÂ¶ a Ð¸ b", "→ 2 × 3 Å ABI¶ a и b"),
        ("Ä°lgili\nZOBACZ TAKÅ»E\nÅ›rodowiska", "İlgili\nZOBACZ TAKŻE\nśrodowiska"),
        ("â–¸", "▸"),
        ("ã‚¢ã‚¤ã‚¦ ä½\u{a0}å¥½", "アイウ 你好"),
        ("ðŸ˜€ smile", "😀 smile"),
        ("ï»¿begin", "\u{feff}begin"),
        ("caf\u{c3}\u{a9} na\u{c3}\u{af}ve \u{e2}\u{80}\u{99}", "café naïve ’"),
        ("Tom &amp; Jerry&#39;s &eacute;t&eacute; &#x2014; &#151;", "Tom & Jerry's été — —"),
        ("&amp;amp;eacute; &amp;lt; &#38;gt;", "é < >"),
        ("&Atilde;&copy;", "é"),
    ] {
        assert_eq!(repaired(text), expected, "{text}");
    }
}

#[test]
fn good_text_is_left_alone() {
    for text in [
        "« LE CAFÉ» et l'été…» voilà…»",
        "„Spaß“, „MENÜ“, ß\u{a0}und",
        "MAÇÃ”, MANHÃ—não, ĐÃ…",
        "NESCAFÉ® ÉTÉ², CAFÉ·BAR, É\u{a0}t, É–t, «Â», “Ã”, «â»",
        "l'intitulé\u{a0}§ 3, à\u{a0}« côté »",
        "R&D, AT&T; a&b; ?a=1&copy=2, &nosuch; &#; &#xg; &#1; &#55296;",
        "<p>&lt;b&gt; &amp;</p>",
        "Ã, Â, â € ™, Ð",
        "naïve Åse, Ñandú, Øre",
        "漢字 ひらがな Привет",
    ] {
        assert_eq!(repaired(text), text);
    }
}

#[test]
fn repairs_are_counted() {
    let mut scratch = Scratch::default();
    let repairs = Repairs { entities: 1, characters: 2 };
    assert_eq!(repair("Ã© Ã© &gt;", &mut scratch), Some(("é é >", repairs)));
    assert_eq!(repair("é é >", &mut scratch), None);
}

proptest! {
    #[test]
    fn a_repaired_text_stays(text in "([Ã©Âƒâ€™Å‚ÐÑ\u{80}\u{a0}»É…]|&|amp;|lt;|#39;|<|[a-zA-Z ]|\n){0,40}") {
        let once = repaired(&text);
        prop_assert_eq!(repaired(&once), once);
    }

    #[test]
    fn words_beyond_ascii_come_back(words in prop::collection::vec("[a-z]{1,4}[à-öø-ÿğıłżřš][a-z]{0,4}", 1..8), is_windows: bool, times in 1..3usize) {
        let text = words.join(" ");
        let damaged = (0..times).fold(text.clone(), |text, _| misread(&text, is_windows));
        prop_assert_eq!(repaired(&damaged), text);
    }

    #[test]
    fn any_text_is_taken(text in "\\PC{0,40}") {
        repaired(&text);
        repaired(&misread(&text, true));
    }
}
