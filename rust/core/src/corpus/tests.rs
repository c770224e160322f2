//! Reading, staging, settling and emitting, with what may be wrong with files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::Monitor;
use crate::bpe::Tokenizer;
use crate::dedup::NearOptions;
use crate::quality::{Edits, RULES};

fn options(path: &Path) -> ReadOptions {
    ReadOptions {
        path: path.to_owned(),
        start: 0,
        end: u64::MAX,
        fields: Fields { text: "text".into(), name: Some("url".into()) },
        is_lossy: false,
        max_document_bytes: 1 << 20,
        extract: None,
    }
}

/// (text, name, offset) of documents, (reason, offset) of problems.
type Found = (Vec<(String, String, u64)>, Vec<(String, u64)>);

fn found(options: &ReadOptions) -> Found {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    read(options, &Monitor::default(), &mut |item| {
        match item {
            Item::Document { text, name, offset } => {
                documents.push((text.to_owned(), name.to_owned(), offset));
            }
            Item::Skipped { rule, offset, .. } => problems.push((rule.to_owned(), offset)),
            Item::Problem { reason, offset, .. } => problems.push((reason, offset)),
        }
        Ok(())
    })
    .unwrap();
    (documents, problems)
}

fn texts(options: &ReadOptions) -> Vec<String> {
    found(options).0.into_iter().map(|(text, ..)| text).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn line(text: &str) -> String {
    format!("{}\n", serde_json::json!({"text": text, "url": "u"}))
}

/// Text that does not compress to nothing.
fn noise(seed: u64, len: u64) -> String {
    (0..len).map(|i| char::from(b'a' + crate::rng::below(26, seed, 0, i) as u8)).collect()
}

#[test]
fn the_same_documents_come_from_any_packing_in_any_members() {
    let directory = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..50).map(|i| line(&noise(i, 3000))).collect();
    let whole = lines.concat();
    let members = |pack: fn(&[u8]) -> Vec<u8>| {
        lines.chunks(7).flat_map(|part| pack(part.concat().as_bytes())).collect::<Vec<_>>()
    };
    let expected = texts(&options(&write(directory.path(), "a.jsonl", whole.as_bytes())));
    assert_eq!(expected.len(), 50);
    for (name, bytes) in [
        ("b.jsonl.gz", gzip(whole.as_bytes())),
        ("c.jsonl.gz", members(gzip)),
        ("d.jsonl.zst", zstd(whole.as_bytes())),
        ("e.jsonl.zst", members(zstd)),
    ] {
        assert_eq!(found(&options(&write(directory.path(), name, &bytes))).1, []);
        assert_eq!(texts(&options(&directory.path().join(name))), expected, "{name}");
    }
}

#[test]
fn after_a_damaged_member_the_next_ones_are_read() {
    let directory = tempfile::tempdir().unwrap();
    for (ending, pack) in [("gz", gzip as fn(&[u8]) -> Vec<u8>), ("zst", zstd)] {
        let members: Vec<Vec<u8>> = (0..5)
            .map(|i| pack((0..40).map(|j| line(&noise(i * 100 + j, 2000))).collect::<String>().as_bytes()))
            .collect();
        let start = members[..2].concat().len();
        let mut bytes = members.concat();
        let middle = start + members[2].len() / 2;
        bytes[middle..middle + 64].fill(0xff);
        let path = write(directory.path(), &format!("a.jsonl.{ending}"), &bytes);
        let (_, problems) = found(&options(&path));
        assert_eq!(problems.len(), 1, "{ending}: {problems:?}");
        assert!(problems[0].0.contains(&format!("starts at byte {start}:")), "{ending}: {problems:?}");
        let expected: Vec<String> =
            [0, 1, 3, 4].iter().flat_map(|i| (0..40).map(move |j| noise(i * 100 + j, 2000))).collect();
        assert_eq!(texts(&options(&path)), expected, "{ending}");
        // A file that was cut off is a problem at its end.
        let path = write(directory.path(), &format!("b.jsonl.{ending}"), &bytes[..start - 10]);
        let (documents, problems) = found(&options(&path));
        assert_eq!(problems.len(), 1, "{ending}: {problems:?}");
        // Zstandard unpacks whole blocks, of which the last is gone.
        assert!((40..80).contains(&documents.len()), "{ending}");
    }
}

#[test]
fn long_members_are_checked_before_they_are_read() {
    let directory = tempfile::tempdir().unwrap();
    for (ending, pack) in [("gz", gzip as fn(&[u8]) -> Vec<u8>), ("zst", zstd)] {
        let lines: Vec<String> = (0..60).map(|i| line(&noise(i, 100_000))).collect();
        let good = pack(lines.concat().as_bytes());
        let last = pack(line("last").as_bytes());
        let path = write(directory.path(), &format!("a.jsonl.{ending}"), &[&good[..], &last].concat());
        assert_eq!(texts(&options(&path)).len(), 61, "{ending}");
        let mut bad = good.clone();
        let at = bad.len() - 3000;
        bad[at..at + 64].fill(0xff);
        let path = write(directory.path(), &format!("b.jsonl.{ending}"), &[&bad[..], &last].concat());
        assert_eq!(texts(&options(&path)), ["last"], "{ending}");
        let path = write(directory.path(), &format!("c.jsonl.{ending}"), &good[..good.len() - 3000]);
        let (documents, problems) = found(&options(&path));
        assert!((50..60).contains(&documents.len()), "{ending}: {}", documents.len());
        assert_eq!(problems.len(), 1);
    }
}

#[test]
fn lines_that_are_too_long_or_no_text_are_passed_over_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = line("first").into_bytes();
    let long_at = bytes.len() as u64;
    bytes.extend(line(&"x".repeat(3 << 20)).into_bytes());
    let bad_at = bytes.len() as u64;
    bytes.extend(b"{\"text\": \"caf\xe9\"}\n{\"other\": 1}\nnot json\n\n");
    bytes.extend(line("last").trim_end().as_bytes());
    let path = write(directory.path(), "a.jsonl", &bytes);
    let (documents, problems) = found(&options(&path));
    assert_eq!(documents.iter().map(|(text, ..)| text.as_str()).collect::<Vec<_>>(), ["first", "last"]);
    assert_eq!(problems[0].1, long_at);
    assert!(problems[0].0.contains("more than max_document_bytes, 1048576"), "{problems:?}");
    assert_eq!(problems[1].0, format!("byte {} is not UTF-8 (0xe9)", bad_at + 13));
    assert!(
        problems[2].0.contains("no field \"text\"") && problems[3].0.contains("expected"),
        "{problems:?}"
    );
    let lossy = ReadOptions { is_lossy: true, ..options(&path) };
    assert_eq!(texts(&lossy)[1], "caf\u{fffd}");
    let (documents, problems) = found(&options(&directory.path().join("none.jsonl")));
    assert!(documents.is_empty() && problems[0].0.contains("cannot be read"), "{problems:?}");
}

#[test]
fn a_text_file_is_one_document_and_empty_packed_files_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a.txt.gz", &gzip("\u{feff}one\n\ntwo".as_bytes()));
    assert_eq!(texts(&options(&path)), ["one\n\ntwo"]);
    let long = write(directory.path(), "b.txt", &vec![b'a'; 2 << 20]);
    assert!(found(&options(&long)).1[0].0.starts_with("2097152 bytes are more"));
    let empty = write(directory.path(), "c.txt.gz", b"");
    assert!(found(&options(&empty)).1[0].0.contains("truncated"));
    assert!(Format::of(Path::new("a.docx")).is_err());
}

#[test]
fn web_archives_give_extracted_text_with_its_url() {
    let record = |kind: &str, body: &str| {
        let header = format!("WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: page://a.org/{kind}\r\n");
        format!("{header}Content-Length: {}\r\n\r\n{body}\r\n\r\n", body.len())
    };
    let records = [
        record("warcinfo", "software: x"),
        record("conversion", "Some text.\nWARC/1.0 is not a header here."),
        record("response", "<html>"),
        record("conversion", "More."),
    ];
    let directory = tempfile::tempdir().unwrap();
    let plain = write(directory.path(), "a.warc.wet", records.concat().as_bytes());
    let packed: Vec<u8> = records.iter().flat_map(|record| gzip(record.as_bytes())).collect();
    let packed = write(directory.path(), "b.warc.wet.gz", &packed);
    for path in [plain, packed] {
        let (documents, problems) = found(&options(&path));
        assert_eq!(documents.len(), 2, "{problems:?}");
        assert_eq!(documents[0].0, "Some text.\nWARC/1.0 is not a header here.");
        assert_eq!(documents[1].1, "page://a.org/conversion");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].0.contains("extract its text"));
    }
    let torn = format!("{}garbage\n{}{}", records[1], records[3], &records[1][..records[1].len() - 9]);
    let (documents, problems) = found(&options(&write(directory.path(), "c.warc", torn.as_bytes())));
    assert_eq!(documents.len(), 2);
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[derive(Debug)]
struct Upper;

impl Extract for Upper {
    fn text(&self, html: &[u8], encoding: &str) -> Result<String, String> {
        let html = String::from_utf8_lossy(html);
        if html.contains("bad") {
            Err("bad page".into())
        } else {
            Ok(format!("{encoding} {}", html.to_uppercase()))
        }
    }
}

#[test]
fn pages_as_they_were_fetched_become_text_if_something_extracts_it() {
    let record = |uri: &str, kind: &str, body: &str| {
        let body = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n{body}");
        let header = format!("WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {uri}\r\n");
        format!("{header}Content-Length: {}\r\n\r\n{body}\r\n\r\n", body.len())
    };
    let records = [
        record("http:1", "text/html; charset=koi8-r", "<p>one"),
        record("http:2", "image/png", "png"),
        record("dns:a", "text/dns", "1.2.3.4"),
        record("http:3", "text/html", "bad"),
        record("http:4", "text/html", "<p>two"),
    ];
    let directory = tempfile::tempdir().unwrap();
    let packed: Vec<u8> = records.iter().flat_map(|record| gzip(record.as_bytes())).collect();
    for (name, bytes) in [("a.warc", records.concat().as_bytes()), ("b.warc.gz", &packed)] {
        let path = write(directory.path(), name, bytes);
        let (documents, problems) = found(&ReadOptions { extract: Some(Arc::new(Upper)), ..options(&path) });
        let texts: Vec<_> = documents.iter().map(|(text, name, _)| (text.as_str(), name.as_str())).collect();
        assert_eq!(texts, [("koi8-r <P>ONE", "http:1"), (" <P>TWO", "http:4")]);
        let reasons: Vec<_> = problems.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(reasons, ["content_type", "bad page"]);
    }
    let path = write(directory.path(), "c.jsonl", line("<p>three").as_bytes());
    let options = ReadOptions { extract: Some(Arc::new(Upper)), ..options(&path) };
    assert_eq!(texts(&options), ["utf-8 <P>THREE"]);
}

proptest! {
    /// Every line belongs to exactly one stretch, wherever a file is cut.
    #[test]
    fn stretches_of_a_file_have_all_its_documents_once(
        lens in prop::collection::vec(0usize..200, 1..30), cuts in prop::collection::vec(0u64..4000, 0..6), ends_with_line: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut whole: String = lens.iter().map(|&len| line(&"é".repeat(len / 2))).collect();
        if !ends_with_line {
            whole.pop();
        }
        let path = write(directory.path(), "a.jsonl", whole.as_bytes());
        let mut cuts: Vec<u64> = cuts.into_iter().filter(|&cut| cut < whole.len() as u64).collect();
        cuts.sort_unstable();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([u64::MAX]);
        let parts = starts.zip(ends).flat_map(|(start, end)| {
            found(&ReadOptions { start, end, ..options(&path) }).0
        });
        prop_assert_eq!(parts.collect::<Vec<_>>(), found(&options(&path)).0);
    }
}

fn usual() -> Stager {
    let clean = Clean { edits: Edits::default(), thresholds: RULES.map(|rule| rule.off()) };
    let near = NearOptions::default();
    Stager::new(vec![Arc::new(clean)], Some((near.shingler, near.bands)))
}

fn page(seed: u64) -> String {
    let word = |i| format!("word{}", crate::rng::below(4000, seed, 1, i));
    (0..60).map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn staged_files_hold_what_was_read_and_duplicates_are_found_across_them() {
    let directory = tempfile::tempdir().unwrap();
    let near_copy = format!("{} and a tail", page(0));
    let parts = [[page(0), page(1), " ".to_owned()], [page(1).to_uppercase(), near_copy, page(2)]];
    let stager = usual();
    let mut paths = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let bytes: String = part.iter().map(|text| line(text)).collect();
        let input = write(directory.path(), &format!("{i}.jsonl"), bytes.as_bytes());
        paths.push(directory.path().join(format!("{i}.docs")));
        stager.stage(&[options(&input)], &paths[i], &Monitor::default()).unwrap();
    }
    let set = StagedSet::open(&paths).unwrap();
    set.parts().iter().for_each(|part| part.verify(&Monitor::default()).unwrap());
    assert_eq!((set.len(), set.starts()), (6, &[0, 3, 6][..]));
    assert_eq!(set.parts()[1].text(2), page(2));
    assert_eq!(set.parts()[0].name(0), "u");
    let all = SettleOptions {
        is_exact: true,
        similar: Some(NearOptions::default()),
        is_near: true,
        ..SettleOptions::default()
    };
    let settled = settle(&set, &all, &Monitor::default()).unwrap();
    assert_eq!(settled.reasons, [0, 0, 0, 3, 4, 0]);
    assert_eq!(settled.by, [0, 1, 2, 1, 0, 5]);
    let longest = SettleOptions { keeps_longest: true, ..all };
    assert_eq!(settle(&set, &longest, &Monitor::default()).unwrap().reasons, [4, 0, 0, 3, 0, 0]);
    let by_url = SettleOptions { is_by_url: true, ..SettleOptions::default() };
    assert_eq!(settle(&set, &by_url, &Monitor::default()).unwrap().reasons, [0, 2, 2, 2, 2, 2]);
}

#[test]
fn damaged_staged_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let input =
        write(directory.path(), "a.jsonl", (0..5).map(|i| line(&page(i))).collect::<String>().as_bytes());
    let path = directory.path().join("a.docs");
    usual().stage(&[options(&input)], &path, &Monitor::default()).unwrap();
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        let path = write(directory.path(), "b.docs", bytes);
        Staged::open(&path).and_then(|staged| staged.verify(&Monitor::default())).is_err()
    };
    assert!(!refused(&whole));
    for len in (0..whole.len()).step_by(97) {
        assert!(refused(&whole[..len]), "{len}");
    }
    for at in (0..whole.len()).step_by(13) {
        let mut altered = whole.clone();
        altered[at] ^= 4;
        assert!(refused(&altered), "byte {at}");
    }
}

#[test]
fn shards_have_the_kept_documents_on_their_sides_and_end_at_the_budget() {
    let directory = tempfile::tempdir().unwrap();
    let input =
        write(directory.path(), "a.jsonl", (0..40).map(|i| line(&page(i))).collect::<String>().as_bytes());
    let staged = directory.path().join("a.docs");
    usual().stage(&[options(&input)], &staged, &Monitor::default()).unwrap();
    let staged = Staged::open(&staged).unwrap();
    let tokenizer =
        Tokenizer::from_characters("abcdefghijklmnopqrstuvwxyz0123456789 ", &["<e>".to_owned()]).unwrap();
    let targets = [directory.path().join("t.bin"), directory.path().join("v.bin")];
    let targets = [targets[0].as_path(), targets[1].as_path()];
    let is_kept: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
    let made = |split, max_tokens| {
        let options = EmitOptions { tokenizer: &tokenizer, end: Some(37), split, max_tokens };
        emit(&staged, &is_kept, options, targets, &Monitor::default()).unwrap()
    };
    let count = |side: &Option<Emitted>| side.as_ref().map_or(0, |side| side.entry.num_documents);
    let ([train, val], is_full) = made(Split::Hash(1 << 62), None);
    assert_eq!(count(&train) + count(&val), 20);
    assert!(count(&val) > 0 && !is_full);
    let shard = crate::shard::Shard::open(targets[0]).unwrap();
    assert_eq!(shard.num_tokens(), train.as_ref().unwrap().num_bytes + count(&train));
    let ([train, val], _) = made(Split::Tail(10, 5), None);
    assert_eq!((count(&train), count(&val)), (6, 15));
    let most = train.unwrap().entry.num_tokens / 2;
    let ([train, val], is_full) = made(Split::Tail(40, 0), Some(most));
    assert!(is_full && val.is_none());
    assert!(train.as_ref().unwrap().entry.num_tokens <= most && count(&train) >= 1);
}
