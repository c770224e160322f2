//! Random texts through the fast and the plain form of the tokenizer: `cargo run -rp tempa-fuzz -- [TEXTS] [SEED]`.
//!
//! Each text is cut by every pattern and by its regular expression, and encoded by a random vocabulary and by the
//! definition of BPE. The first difference is printed with the seed that makes it again.

use std::process::ExitCode;

use fancy_regex::Regex;
use tempa_core::bpe::{Allowed, Merge, Parts, Pattern, Tokenizer};
use tempa_core::rng;

/// What patterns treat specially, and a little of several scripts.
const ALPHABETS: [&str; 7] = [
    " \t\n\r\u{85}\u{a0}\u{3000}",
    "'sdmtlvreSDMTLVRE\u{17f}\u{212a}",
    "abcABC xyz",
    "0123456789²Ⅷ٣",
    ".,!?-_(<|>)/\u{301}\u{200d}",
    "éßЖдאكहिไ",
    "中文字かな한글🙂👩",
];

struct Draw {
    seed: u64,
    stream: u64,
    index: u64,
}

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.index += 1;
        (rng::uniform(self.seed, self.stream, self.index) * end as f64) as usize
    }

    /// Runs of characters from a few alphabets, some of them long.
    fn text(&mut self) -> String {
        let few = [self.below(ALPHABETS.len()), self.below(ALPHABETS.len())];
        let mut text = String::new();
        for _ in 0..self.below(30) {
            let alphabet: Vec<char> = ALPHABETS[few[self.below(2)]].chars().collect();
            let c = if self.below(50) == 0 { self.any() } else { alphabet[self.below(alphabet.len())] };
            let count = if self.below(8) == 0 { self.below(150) } else { 1 + self.below(2) };
            text.extend(std::iter::repeat_n(c, count));
        }
        text
    }

    fn any(&mut self) -> char {
        char::from_u32(self.below(0x11_0000) as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// All bytes, and rules that join the bytes of `text` and what earlier rules made.
    fn vocabulary(&mut self, pattern: Pattern, text: &str) -> Parts {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut merges: Vec<Merge> = Vec::new();
        for _ in 0..60 {
            let mut pick = || match self.below(text.len() + merges.len()) {
                at if at < text.len() => u32::from(text.as_bytes()[at]),
                at => 256 + (at - text.len()) as u32,
            };
            let (left, right) = (pick(), pick());
            let joined = [tokens[left as usize].as_slice(), &tokens[right as usize]].concat();
            if !tokens.contains(&joined) {
                merges.push(Merge { left, right, new: tokens.len() as u32 });
                tokens.push(joined);
            }
        }
        Parts { pattern, tokens, merges, specials: vec![], ignore_merges: false }
    }
}

/// Merges as they are defined: while any pair has a rule, the leftmost pair of the lowest rank.
fn by_definition(parts: &Parts, piece: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = piece.bytes().map(u32::from).collect();
    let rank = |pair: &[u32]| parts.merges.iter().position(|rule| [rule.left, rule.right] == *pair);
    while let Some((rank, at)) =
        ids.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min()
    {
        ids.splice(at..at + 2, [parts.merges[rank].new]);
    }
    ids
}

/// What differs on the text of a seed, if anything does.
fn difference(seed: u64, number: u64, regexes: &[(Pattern, Regex)]) -> Result<(), String> {
    let mut draw = Draw { seed, stream: number, index: 0 };
    let text = draw.text();
    for (pattern, regex) in regexes {
        let pieces: Vec<&[u8]> = pattern.pieces(&text).collect();
        let expected: Vec<&str> =
            regex.find_iter(&text).filter_map(|found| found.ok().map(|found| found.as_str())).collect();
        if pieces
            .iter()
            .map(|piece| piece.to_vec())
            .ne(expected.iter().map(|piece| piece.as_bytes().to_vec()))
        {
            return Err(format!("{} cuts {text:?} into {} pieces", pattern.name(), pieces.len()));
        }
        if *pattern == Pattern::Characters || text.is_empty() {
            continue;
        }
        let parts = draw.vocabulary(*pattern, &text);
        let expected: Vec<u32> = expected.iter().flat_map(|piece| by_definition(&parts, piece)).collect();
        let tokenizer = Tokenizer::new(parts).map_err(|error| error.to_string())?;
        let ids = tokenizer.encode(&text, &Allowed::default()).map_err(|error| error.to_string())?;
        if ids != expected {
            return Err(format!("{} encodes {text:?} as {ids:?}, not {expected:?}", pattern.name()));
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Ok(texts), Ok(seed)) = (arguments.next().unwrap_or(Ok(10_000)), arguments.next().unwrap_or(Ok(0)))
    else {
        eprintln!("usage: tempa-fuzz [TEXTS] [SEED], both whole numbers");
        return ExitCode::from(2);
    };
    let compiled = Pattern::ALL.map(|pattern| Regex::new(pattern.regex()).map(|regex| (pattern, regex)));
    let Ok(regexes) = compiled.into_iter().collect::<Result<Vec<_>, _>>() else {
        eprintln!("an expression does not compile");
        return ExitCode::FAILURE;
    };
    for number in 0..texts {
        if let Err(difference) = difference(seed, number, &regexes) {
            eprintln!("text {number} of seed {seed}: {difference}");
            return ExitCode::FAILURE;
        }
    }
    println!("{texts} texts of seed {seed}: no difference");
    ExitCode::SUCCESS
}
