//! Regular expressions of tokenizer files: which are built-in patterns, and how the others are run.
//!
//! `tokenizers` runs Oniguruma and tiktoken runs the engine used here, and some spellings mean different things
//! to them. [`translate`] writes an expression so that it means the same in both; what it cannot, it refuses.

use fancy_regex::Regex;

use super::pretokenize::Pattern;

/// Whose reading of an expression is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Oniguruma with Ruby's syntax, which `tokenizers` uses.
    Oniguruma,
    /// The `fancy-regex` crate, which tiktoken uses.
    Fancy,
}

type Refused<T> = std::result::Result<T, String>;

/// The built-in pattern that cuts exactly like the expression, if there is one.
pub(super) fn builtin(expression: &str) -> Option<Pattern> {
    // In these expressions giving characters back never helps, so possessive or not is the same.
    let plain = expression.replace("++", "+").replace("?+", "?").replace("*+", "*");
    let own = Pattern::ALL.into_iter().find(|pattern| pattern.regex() == plain);
    let (_, other) = SPELLINGS.iter().find(|(spelling, _)| *spelling == plain).copied().unzip();
    own.filter(|pattern| *pattern != Pattern::Characters).or(other)
}

/// Whether the expression is [`CL100K_BASE`], as tiktoken or [`translate`] writes it.
pub(super) fn is_cl100k_base(expression: &str, dialect: Dialect) -> bool {
    (expression == CL100K_BASE && dialect == Dialect::Fancy)
        || translate(CL100K_BASE, Dialect::Fancy).is_ok_and(|translated| translated == expression)
}

/// cl100k as tiktoken has it since its release 0.9: `\s++$` makes white space at the end of a text one piece.
pub(super) const CL100K_BASE: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
);

/// Other spellings of the built-in patterns in files and packages, without the marks of possessive repeats.
const SPELLINGS: [(&str, Pattern); 5] = [
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s+(?!\S)|\s", Pattern::Gpt2),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Cl100k,
    ),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        Pattern::Cl100k,
    ),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Qwen2,
    ),
];

/// Compiles what [`translate`] wrote.
pub(super) fn compile(translated: &str) -> Refused<Regex> {
    Regex::new(translated).map_err(|error| format!("regex {translated:?} cannot be compiled: {error}"))
}

/// A string as an expression that matches it.
pub(super) fn literal(text: &str) -> String {
    fancy_regex::escape(text).into_owned()
}

/// Oniguruma's word characters, which leave out the two joiners that other engines count.
const WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}";

/// The same expression in spellings that both engines read alike.
///
/// Refused are inline flags other than `i`, POSIX brackets, back references, and escapes of one engine only.
pub(super) fn translate(expression: &str, dialect: Dialect) -> Refused<String> {
    let refuse = |what: &str| Err(format!("regex {expression:?}: {what} is not supported"));
    let mut out = String::with_capacity(expression.len());
    // Where the last complete item starts, for repeats that are written around it, and the open groups.
    let (mut item, mut groups) = (0, Vec::new());
    let mut depth = 0;
    let mut rest = expression.chars().peekable();
    while let Some(c) = rest.next() {
        let start = out.len();
        match c {
            '\\' => {
                let Some(escaped) = rest.next() else { return refuse("a backslash at the end") };
                match escaped {
                    'w' | 'W' if dialect == Dialect::Oniguruma => match (escaped, depth) {
                        ('w', 0) => out.extend(["[", WORD, "]"]),
                        ('W', 0) => out.extend(["[^", WORD, "]"]),
                        ('w', _) => out.push_str(WORD),
                        _ => return refuse(r"\W in brackets"),
                    },
                    'p' | 'P' => {
                        out.extend(['\\', escaped]);
                        if rest.next_if_eq(&'{').is_none() {
                            return refuse(r"\p without braces");
                        }
                        let name: String = rest.by_ref().take_while(|&c| c != '}').collect();
                        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                            return refuse(&format!(r"\p{{{name}}}"));
                        }
                        out.extend(["{", &name, "}"]);
                    }
                    's' | 'S' | 'd' | 'D' | 'r' | 'n' | 't' | 'f' | 'w' | 'W' => out.extend(['\\', escaped]),
                    'u' => {
                        let code: String = rest.by_ref().take(4).collect();
                        let Some(c) = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) else {
                            return refuse(&format!(r"\u{code}"));
                        };
                        out.push_str(&literal(c.encode_utf8(&mut [0; 4])));
                    }
                    'b' | 'B' if depth == 0 && dialect == Dialect::Fancy => out.extend(['\\', escaped]),
                    'z' | 'A' if depth == 0 => out.extend(['\\', escaped]),
                    _ if escaped.is_ascii_alphanumeric() => return refuse(&format!(r"\{escaped}")),
                    _ => out.extend(['\\', escaped]),
                }
                if depth == 0 {
                    item = start;
                }
            }
            '[' => {
                if depth > 0 && rest.peek() == Some(&':') {
                    return refuse("a POSIX bracket");
                }
                if depth == 0 {
                    item = start;
                }
                depth += 1;
                out.push('[');
            }
            ']' if depth > 0 => {
                depth -= 1;
                out.push(']');
            }
            _ if depth > 0 => out.push(c),
            '(' => {
                groups.push(start);
                out.push('(');
                if rest.next_if_eq(&'?').is_some() {
                    let mut kind: String = rest.next().into_iter().collect();
                    match kind.as_str() {
                        "<" => kind.extend(rest.next()),
                        "i" | "-" => kind.extend(rest.by_ref().take_while(|&c| c != ':').chain([':'])),
                        _ => {}
                    }
                    if !matches!(kind.as_str(), ":" | "=" | "!" | ">" | "<=" | "<!" | "i:" | "-i:") {
                        return refuse(&format!("(?{kind}"));
                    }
                    out.extend(["?", &kind]);
                }
            }
            ')' => {
                let Some(opened) = groups.pop() else { return refuse("a bracket that was not opened") };
                item = opened;
                out.push(')');
            }
            '{' => {
                let count: String = rest.by_ref().take_while(|&c| c != '}').collect();
                if !count.starts_with(|c: char| c.is_ascii_digit()) {
                    return refuse(&format!("{{{count}}}"));
                }
                out.extend(["{", &count, "}"]);
                // To Oniguruma a plus after a count is a second repeat, to others it means possessive.
                if rest.next_if_eq(&'+').is_some() {
                    let (open, close) = match dialect {
                        Dialect::Oniguruma => ("(?:", ")+"),
                        Dialect::Fancy => ("(?>", ")"),
                    };
                    out.insert_str(item, open);
                    out.push_str(close);
                }
            }
            '$' => match dialect {
                Dialect::Oniguruma => out.push_str(r"(?=\n|\z)"),
                Dialect::Fancy => out.push_str(r"\z"),
            },
            '^' => match dialect {
                Dialect::Oniguruma => return refuse("^ outside brackets"),
                Dialect::Fancy => out.push_str(r"\A"),
            },
            '+' | '*' | '?' | '|' => out.push(c),
            _ => {
                item = start;
                out.push(c);
            }
        }
    }
    if depth > 0 || !groups.is_empty() {
        return refuse("a bracket that is not closed");
    }
    compile(&out).map(|_| out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_pattern_is_recognised_from_its_own_expression() {
        for pattern in Pattern::ALL {
            if pattern != Pattern::Characters {
                assert_eq!(builtin(pattern.regex()), Some(pattern));
            }
        }
        assert_eq!(builtin(r"\p{L}+"), None);
    }

    #[test]
    fn a_plus_after_a_count_is_read_as_its_engine_does() {
        let cut = |dialect| {
            let regex = compile(&translate(r"\p{N}{1,3}+|x$", dialect).unwrap()).unwrap();
            let found = regex.find_iter("12345 x\nx").map(|found| found.unwrap().as_str().to_owned());
            found.collect::<Vec<_>>()
        };
        assert_eq!(cut(Dialect::Oniguruma), ["12345", "x", "x"]);
        assert_eq!(cut(Dialect::Fancy), ["123", "45", "x"]);
    }

    #[test]
    fn translated_expressions_stay_what_they_are() {
        for same in [r"[^\r\n\p{L}]?\p{L}++|(?i:'s)|\s+(?!\S)", r"[\[\]a-z&&[^b]]", r"(?<=a)(?>b*+)c{2}"] {
            for dialect in [Dialect::Oniguruma, Dialect::Fancy] {
                assert_eq!(translate(same, dialect).unwrap(), same);
                assert_eq!(translate(&translate(same, dialect).unwrap(), dialect).unwrap(), same);
            }
        }
    }

    #[test]
    fn what_engines_read_differently_is_refused() {
        for (expression, reason) in [
            (r"(?m:.)", "(?m"),
            (r"[[:alpha:]]", "POSIX"),
            (r"\h+", r"\h"),
            (r"(a)\1", r"\1"),
            (r"^a", "^ outside"),
            (r"(a", "not closed"),
            (r"a\", "backslash"),
            (r"\p{^L}", r"\p{^L}"),
        ] {
            let refused = translate(expression, Dialect::Oniguruma).unwrap_err();
            assert!(refused.contains(reason), "{expression}: {refused}");
        }
    }
}
