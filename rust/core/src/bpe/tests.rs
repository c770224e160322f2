//! The tokenizer as a whole: random vocabularies against the definition of BPE, files, fingerprints.

use proptest::prelude::*;

use super::{Allowed, Input, Merge, Parts, Pattern, Request, StreamDecoder, Tokenizer, reference};
use crate::{Error, Monitor, Ragged, Result};

/// All bytes in order, then one token for each rule: each joins two tokens that exist before it.
fn vocabulary(draws: &[(u32, u32)]) -> Parts {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut merges: Vec<Merge> = Vec::new();
    for &(left, right) in draws {
        // Letters are drawn often, so that rules meet in text; ids from 256 on are earlier rules.
        let pick = |draw: u32| match draw as usize % (8 + merges.len()) {
            letter @ 0..8 => u32::from(b"abc e\xc3\xa9\n"[letter]),
            rule => 256 + rule as u32 - 8,
        };
        let (left, right) = (pick(left), pick(right));
        let joined = [tokens[left as usize].as_slice(), &tokens[right as usize]].concat();
        if !tokens.contains(&joined) {
            merges.push(Merge { left, right, new: tokens.len() as u32 });
            tokens.push(joined);
        }
    }
    Parts { pattern: Pattern::Gpt2, tokens, merges, specials: vec![], ignore_merges: false }
}

/// BPE as it is defined: each piece is merged on its own, from its bytes.
fn by_definition(parts: &Parts, text: &str) -> Vec<u32> {
    let bytes = |piece: &[u8]| piece.iter().map(|&byte| u32::from(byte)).collect::<Vec<_>>();
    parts.pattern.pieces(text).flat_map(|piece| reference::merge(&parts.merges, &bytes(piece))).collect()
}

fn rules() -> impl Strategy<Value = Vec<(u32, u32)>> {
    proptest::collection::vec(any::<(u32, u32)>(), 0..30)
}

fn encode_all(
    tokenizer: &Tokenizer,
    texts: &[String],
    num_threads: usize,
    monitor: &Monitor,
) -> Result<Ragged<u32>> {
    let inputs: Vec<_> = texts.iter().map(|text| Input::Text(text)).collect();
    let mut rows = Ragged::default();
    tokenizer.encode_requests(&inputs, 0, &Request::default(), Some(num_threads), monitor, &mut rows)?;
    Ok(rows)
}

proptest! {
    #[test]
    fn ids_follow_the_definition(draws in rules(), texts in proptest::collection::vec("[abceé \n]{0,120}|\\PC{0,20}", 1..6)) {
        let parts = vocabulary(&draws);
        let tokenizer = Tokenizer::new(parts.clone()).unwrap();
        for text in &texts {
            let ids = tokenizer.encode(text, &Allowed::default()).unwrap();
            prop_assert_eq!(&ids, &by_definition(&parts, text));
            prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), text);
        }
        let batch = encode_all(&tokenizer, &texts, 3, &Monitor::default()).unwrap();
        for (row, text) in batch.rows().zip(&texts) {
            prop_assert_eq!(row, by_definition(&parts, text));
        }
    }

    #[test]
    fn any_bytes_are_decoded_and_streamed_alike(draws in rules(), ids in proptest::collection::vec(any::<u32>(), 0..60)) {
        let tokenizer = Tokenizer::new(vocabulary(&draws)).unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id % tokenizer.vocab_size() as u32).collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).copied().collect();
        prop_assert_eq!(tokenizer.decode_bytes(&ids, false).unwrap(), bytes.as_slice());
        let mut stream = StreamDecoder::default();
        let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id).unwrap()).collect();
        text.push_str(&stream.flush());
        prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
        prop_assert_eq!(text, tokenizer.decode(&ids, false).unwrap());
    }

    #[test]
    fn files_keep_everything(draws in rules(), names in proptest::collection::btree_set("<[a-z]{1,8}>", 0..4)) {
        let names: Vec<String> = names.into_iter().collect();
        let tokenizer = Tokenizer::new(vocabulary(&draws)).unwrap().with_specials(&names).unwrap();
        let again = Tokenizer::from_json(&tokenizer.to_json()).unwrap();
        prop_assert_eq!(again.fingerprint(), tokenizer.fingerprint());
        prop_assert_eq!(again.to_json(), tokenizer.to_json());
        prop_assert!(again.specials().eq(tokenizer.specials()));
    }
}

/// The fingerprint is stored in shards and models: it may only change together with their format.
#[test]
fn the_fingerprint_stays_what_it_was() {
    let tokenizer = Tokenizer::from_characters("ab", &["<|end|>".to_owned()]).unwrap();
    assert_eq!(tokenizer.fingerprint(), "59adc6a8042935ae2540ef2500d20e6a02beaf14d2cd22dcf60b64a0bb86be34");
}

#[test]
fn whatever_decides_ids_changes_the_fingerprint() {
    let parts = vocabulary(&[(0, 1), (1, 2), (8, 3)]);
    let change = |edit: fn(&mut Parts)| {
        let mut parts = parts.clone();
        edit(&mut parts);
        Tokenizer::new(parts).unwrap().fingerprint().to_owned()
    };
    let mut prints = vec![
        change(|_| ()),
        change(|parts| parts.pattern = Pattern::Cl100k),
        change(|parts| parts.ignore_merges = true),
        change(|parts| parts.merges.swap(0, 1)),
        change(|parts| parts.tokens.push(b"zz".to_vec())),
        change(|parts| {
            parts.tokens.push(b"zz".to_vec());
            parts.specials.push(parts.tokens.len() as u32 - 1);
        }),
    ];
    prints.sort();
    prints.dedup();
    assert_eq!(prints.len(), 6);
}

#[test]
fn inconsistent_parts_are_refused_with_the_reason() {
    let refuse = |edit: fn(&mut Parts)| {
        let mut parts = vocabulary(&[(0, 1)]);
        edit(&mut parts);
        Tokenizer::new(parts).unwrap_err().to_string()
    };
    assert_eq!(
        refuse(|parts| parts.merges[0].right = 0),
        "merge 0: token 256 is not token 97 followed by token 0"
    );
    assert_eq!(
        refuse(|parts| parts.merges[0].new = 999),
        "merge 0: token 999 is not token 97 followed by token 98"
    );
    assert_eq!(refuse(|parts| parts.specials.push(257)), "special token 257 has no name");
    assert_eq!(refuse(|parts| parts.specials.push(9)), "byte 0x09 has no token; all 256 are needed");
    assert_eq!(refuse(|parts| parts.tokens.push(b"ab".to_vec())), "tokens 256 and 257 are both \"ab\"");
    assert_eq!(
        refuse(|parts| parts.pattern = Pattern::Characters),
        "a character tokenizer has no merges, got 1"
    );
}

#[test]
fn a_cancelled_batch_stops() {
    let tokenizer = Tokenizer::new(vocabulary(&[])).unwrap();
    let monitor = Monitor::default();
    monitor.cancel();
    for num_threads in [1, 2] {
        let texts = vec!["text ".repeat(100_000); 4];
        let result = encode_all(&tokenizer, &texts, num_threads, &monitor);
        assert!(matches!(result, Err(Error::Interrupted)));
    }
}
