use proptest::prelude::*;

use super::*;

/// All places where a phrase stands, by comparing at each; then the first of each, the longest.
fn find_slowly<'t>(phrases: &[String], text: &'t str) -> Vec<&'t str> {
    let is_word = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() && char < '\u{3000}');
    let is_inside = |at: usize| is_word(text[..at].chars().next_back()) && is_word(text[at..].chars().next());
    let (mut found, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let longest = text[at..]
            .char_indices()
            .map(|(i, char)| at + i + char.len_utf8())
            .filter(|&end| phrases.iter().any(|phrase| phrase.eq_ignore_ascii_case(&text[at..end])))
            .filter(|&end| !is_inside(at) && !is_inside(end))
            .max();
        found.extend(longest.map(|end| &text[at..end]));
        at = longest.unwrap_or(at + text[at..].chars().next().map_or(1, char::len_utf8));
    }
    found
}

fn found<'t>(phrases: &[&str], text: &'t str) -> Vec<&'t str> {
    let phrases = Phrases::new(phrases).unwrap();
    phrases.find(text, &mut Scratch::default()).iter().map(|&(start, end)| &text[start..end]).collect()
}

proptest! {
    #[test]
    fn phrases_are_those_of_the_slow_search(
        phrases in prop::collection::vec("[abA漢]{1,3}|[ab漢] [ab]|[!b]b!", 1..6),
        text in "[abAB漢 !]{0,30}",
    ) {
        let list = Phrases::new(&phrases).unwrap();
        let mut scratch = Scratch::default();
        let found: Vec<&str> = list.find(&text, &mut scratch).iter().map(|&(a, b)| &text[a..b]).collect();
        prop_assert_eq!(found, find_slowly(&phrases, &text));
    }
}

#[test]
fn words_are_whole_in_scripts_with_spaces() {
    assert_eq!(found(&["ass"], "Ass, class, ass_1, assess; (ASS)"), ["Ass", "ASS"]);
    assert_eq!(found(&["слово"], "Слово СЛОВО слово словом"), ["Слово", "СЛОВО", "слово"]);
    assert_eq!(found(&["坏话", "バカ"], "他说坏话。このバカめ"), ["坏话", "バカ"]);
    assert_eq!(found(&["a$$", "🖕"], "A$$! x🖕y ba$$"), ["A$$", "🖕"]);
    assert_eq!(found(&["big deal", "big", "big dealer"], "big deals, big deal"), ["big", "big deal"]);
}

#[test]
fn texts_are_masked_and_measured() {
    let phrases = Phrases::new(&["bad", "very bad", "坏话"]).unwrap();
    let mut scratch = Scratch::default();
    assert_eq!(phrases.mask("A very bad, BAD day", "[-]", &mut scratch), Some(("A [-], [-] day", 2)));
    assert_eq!(phrases.mask("a good day", "[-]", &mut scratch), None);
    assert_eq!(phrases.measure("a very bad, bad day", &mut scratch), (2, 0.6));
    assert_eq!(phrases.measure("他说坏话。", &mut scratch), (1, 0.5));
    assert_eq!(phrases.measure("a good day", &mut scratch), (0, 0.0));
}

#[test]
fn lists_that_cannot_be_meant_are_refused() {
    assert!(Phrases::new(&["fine", ""]).is_err() && Phrases::new(&[" a"]).is_err());
    assert!(Phrases::new::<&str>(&[]).is_ok());
    assert!(
        Urls::new(&["two words"]).is_err() && Urls::new(&[""]).is_err() && Urls::new(&["HTTP:///x"]).is_err()
    );
}

#[test]
fn domains_and_urls_stand_for_what_is_below() {
    let urls = Urls::new(&["bad.org", "HTTPS://www.Some.net/forum/", "com.evil"]).unwrap();
    for (url, entry) in [
        ("HTTPS://bad.org", Some("bad.org")),
        ("HTTP://user@www.BAD.org:80/x?y#z", Some("bad.org")),
        ("HTTPS://sub.of.bad.org/page", Some("bad.org")),
        ("HTTPS://bad.org?q=1", Some("bad.org")),
        ("HTTPS://notbad.org/bad.org", None),
        ("HTTPS://bad.org.uk/", None),
        ("HTTPS://some.net/forum/7?page=2", Some("some.net/forum")),
        ("HTTPS://m.some.net/forum?page=2", Some("some.net/forum")),
        ("HTTPS://some.net/forums", None),
        ("HTTPS://some.net/", None),
        ("bad.org/file.txt:3", None),
        ("", None),
    ] {
        assert_eq!(urls.find(url), entry, "{url}");
    }
}
