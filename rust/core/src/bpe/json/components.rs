//! The parts of a `tokenizer.json` around its model: what each becomes here, or why it cannot.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::Value;

use crate::bpe::cut::{Behavior, Cut, Stage};
use crate::bpe::fallback::{SPACE, Spaces};
use crate::bpe::normalize::{Runs, Step};
use crate::bpe::pipeline::{Prefix, Template};
use crate::bpe::pretokenize::Pattern;
use crate::bpe::regex::{Dialect, builtin, is_cl100k_base, literal, translate};

pub(super) type Refused<T> = Result<T, String>;

/// The `type` of a component, or its JSON.
pub(super) fn kind_of(value: &Value) -> String {
    value.get("type").and_then(Value::as_str).map_or_else(|| value.to_string(), str::to_owned)
}

/// The members of a `Sequence`, those of its members in place of them, or the one component.
fn flat<'v>(value: &'v Value, list: &str) -> Vec<&'v Value> {
    match value.get(list).and_then(Value::as_array) {
        _ if value.is_null() => vec![],
        Some(members) if kind_of(value) == "Sequence" => {
            members.iter().flat_map(|member| flat(member, list)).collect()
        }
        _ => vec![value],
    }
}

fn flag(value: &Value, name: &str, default: bool) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(default)
}

fn text<'v>(value: &'v Value, name: &str) -> Refused<&'v str> {
    value.get(name).and_then(Value::as_str).ok_or_else(|| format!("{} needs {name}: {value}", kind_of(value)))
}

/// The changes that a normalizer makes.
pub(super) fn normalizer(value: &Value) -> Refused<Vec<Step>> {
    let step = |value: &Value| {
        Ok(match kind_of(value).as_str() {
            "NFC" => Step::Nfc,
            "NFD" => Step::Nfd,
            "NFKC" => Step::Nfkc,
            "NFKD" => Step::Nfkd,
            "Lowercase" => Step::Lowercase,
            "Prepend" => Step::Prepend(text(value, "prepend")?.to_owned()),
            "Strip" => {
                Step::Strip { left: flag(value, "strip_left", true), right: flag(value, "strip_right", true) }
            }
            "Replace" => {
                let pattern = value.get("pattern").unwrap_or(&Value::Null);
                let get = |kind| pattern.get(kind).and_then(Value::as_str).filter(|from| !from.is_empty());
                let to = text(value, "content")?.to_owned();
                match (get("String"), get("Regex").and_then(runs)) {
                    (Some(from), _) => Step::Replace { from: from.to_owned(), to },
                    (_, Some((of, runs))) => Step::ReplaceRuns { of, runs, to },
                    _ => {
                        return Err(format!(
                            "only strings and runs of a character are replaced, found {value}"
                        ));
                    }
                }
            }
            kind => return Err(format!("normalizer {kind} is not supported")),
        })
    };
    flat(value, "normalizers").into_iter().map(step).collect()
}

/// The runs that an expression matches, if it is that simple.
fn runs(expression: &str) -> Option<(char, Runs)> {
    let (of, runs) = if let Some(rest) = expression.strip_prefix("\\A") {
        (rest.strip_suffix('+')?, Runs::First)
    } else if let Some(rest) = expression.strip_suffix("+\\z") {
        (rest, Runs::Last)
    } else {
        (expression.strip_suffix("{2,}")?, Runs::Repeated)
    };
    let mut chars = of.chars();
    let of = chars.next().filter(|of| !of.is_ascii_punctuation())?;
    chars.next().is_none().then_some((of, runs))
}

/// How a pre-tokenizer cuts.
pub(super) struct Cutting {
    /// The built-in pattern that does the same.
    pub(super) pattern: Option<Pattern>,
    /// The stages, if no built-in pattern does.
    pub(super) cut: Option<Arc<Cut>>,
    pub(super) prefix: Prefix,
    pub(super) joins_last_space: bool,
}

/// Whether pieces are spelled in the byte alphabet, as byte-level vocabularies need.
pub(super) fn is_byte_level(pre_tokenizer: &Value) -> bool {
    flat(pre_tokenizer, "pretokenizers").into_iter().any(|member| kind_of(member) == "ByteLevel")
}

/// How the pre-tokenizer of a byte-level vocabulary cuts.
pub(super) fn byte_level(pre_tokenizer: &Value) -> Refused<Cutting> {
    let (mut cut, mut prefix, mut is_spelled) = (Cut::default(), Prefix::Never, false);
    for member in flat(pre_tokenizer, "pretokenizers") {
        let stage = if kind_of(member) == "ByteLevel" {
            if is_spelled {
                return Err("a second ByteLevel in the pre-tokenizer is not supported".to_owned());
            }
            if flag(member, "add_prefix_space", true) {
                if !cut.stages.is_empty() {
                    return Err("add_prefix_space after other pre-tokenizers is not supported".to_owned());
                }
                prefix = Prefix::Always;
            }
            // Old files lack this setting and mean true.
            flag(member, "use_regex", true).then_some(Stage::Pattern(Pattern::Gpt2))
        } else {
            Some(stage(member)?)
        };
        if is_spelled { &mut cut.spelled } else { &mut cut.stages }.extend(stage);
        is_spelled |= kind_of(member) == "ByteLevel";
    }
    if let [split, _] = flat(pre_tokenizer, "pretokenizers").as_slice()
        && split["pattern"]["Regex"].as_str().is_some_and(|regex| is_cl100k_base(regex, Dialect::Oniguruma))
        && let [Stage::Split { behavior: Behavior::Removed, is_inverted: true, .. }] = cut.stages.as_slice()
    {
        return Ok(Cutting { pattern: Some(Pattern::Cl100k), cut: None, prefix, joins_last_space: true });
    }
    let pattern = match cut.stages.as_slice() {
        [Stage::Pattern(pattern)] if cut.spelled.is_empty() => Some(*pattern),
        _ => None,
    };
    Ok(Cutting { pattern, cut: pattern.is_none().then(|| Arc::new(cut)), prefix, joins_last_space: false })
}

fn stage(value: &Value) -> Refused<Stage> {
    let fixed = |expression: &str, behavior, is_inverted| {
        Stage::split(&translate(expression, Dialect::Fancy)?, behavior, is_inverted)
    };
    match kind_of(value).as_str() {
        "Split" => {
            let pattern = value.get("pattern").unwrap_or(&Value::Null);
            let get = |kind| pattern.get(kind).and_then(Value::as_str);
            let expression = match (get("Regex"), get("String")) {
                (Some(expression), _) => expression.to_owned(),
                (_, Some(string)) if !string.is_empty() => literal(string),
                _ => return Err(format!("Split needs a pattern: {value}")),
            };
            let (behavior, is_inverted) = (behavior(value)?, flag(value, "invert", false));
            // The built-in patterns match all of a text, so keeping the matches is cutting at them.
            let keeps_matches =
                matches!((behavior, is_inverted), (Behavior::Isolated, _) | (Behavior::Removed, true));
            match builtin(&expression) {
                Some(pattern) if keeps_matches => Ok(Stage::Pattern(pattern)),
                _ => Stage::split(&translate(&expression, Dialect::Oniguruma)?, behavior, is_inverted),
            }
        }
        "Digits" if flag(value, "individual_digits", false) => fixed(r"\p{N}", Behavior::Isolated, false),
        "Digits" => fixed(r"\p{N}", Behavior::Contiguous, false),
        "Punctuation" => fixed(r"[\p{P}!-/:-@\[-`{-~]", behavior(value)?, false),
        "WhitespaceSplit" => fixed(r"\s", Behavior::Removed, false),
        "Whitespace" => fixed(r"\w+|[^\w\s]+", Behavior::Removed, true),
        "CharDelimiterSplit" => fixed(&literal(text(value, "delimiter")?), Behavior::Removed, false),
        kind => Err(format!("pre-tokenizer {kind} is not supported")),
    }
}

fn behavior(value: &Value) -> Refused<Behavior> {
    Ok(match value.get("behavior").and_then(Value::as_str) {
        None | Some("Isolated") => Behavior::Isolated,
        Some("Removed") => Behavior::Removed,
        Some("MergedWithPrevious") => Behavior::MergedWithPrevious,
        Some("MergedWithNext") => Behavior::MergedWithNext,
        Some("Contiguous") => Behavior::Contiguous,
        Some(other) => return Err(format!("behavior {other} of a pre-tokenizer is not supported")),
    })
}

/// Where the pre-tokenizer of a vocabulary with byte fallback cuts and puts spaces; no place means anywhere
/// that changes nothing.
pub(super) fn spaces(pre_tokenizer: &Value, normalizer: &[Step]) -> Refused<(Option<Spaces>, Prefix)> {
    let sign = SPACE.to_string();
    let is_replaced = normalizer
        .iter()
        .any(|step| matches!(step, Step::Replace { from, to } if from == " " && *to == sign));
    match flat(pre_tokenizer, "pretokenizers").as_slice() {
        [] if is_replaced => Ok((None, Prefix::Never)),
        // No space is left to cut at.
        [split] if is_replaced && kind_of(split) == "Split" && split["pattern"]["String"] == " " => {
            Ok((None, Prefix::Never))
        }
        [meta] if kind_of(meta) == "Metaspace" && meta["replacement"] == sign.as_str() => {
            let old = if flag(meta, "add_prefix_space", true) { "always" } else { "never" };
            let prefix = match meta.get("prepend_scheme").and_then(Value::as_str).unwrap_or(old) {
                "never" => Prefix::Never,
                "first" => Prefix::First,
                "always" => Prefix::Always,
                other => return Err(format!("prepend_scheme {other:?} is not supported")),
            };
            Ok((flag(meta, "split", true).then_some(Spaces::Each), prefix))
        }
        _ => Err(format!(
            "with byte_fallback, spaces must become {sign} by a normalizer or Metaspace, and no other \
             pre-tokenizer is supported: {pre_tokenizer}"
        )),
    }
}

/// The tokens that a post-processor puts around a text.
pub(super) fn template(value: &Value) -> Refused<Template> {
    let mut around = Template::default();
    for member in flat(value, "processors") {
        let (before, after) = match kind_of(member).as_str() {
            "ByteLevel" => continue,
            "TemplateProcessing" => single(member)?,
            "BertProcessing" | "RobertaProcessing" => {
                let id = |name: &str| {
                    let id = member.get(name).and_then(|pair| pair.get(1)).and_then(Value::as_u64);
                    let id = id.and_then(|id| u32::try_from(id).ok());
                    id.ok_or_else(|| format!("{} needs {name}: {member}", kind_of(member)))
                };
                (vec![id("cls")?], vec![id("sep")?])
            }
            kind => return Err(format!("post-processor {kind} is not supported")),
        };
        around.before.splice(0..0, before);
        around.after.extend(after);
    }
    Ok(around)
}

fn single(template: &Value) -> Refused<(Vec<u32>, Vec<u32>)> {
    let bad = |what: &str| format!("TemplateProcessing: {what}: {}", template["single"]);
    let pieces = template["single"].as_array().ok_or_else(|| bad("no list `single`"))?;
    let (mut around, mut num_texts) = ([Vec::new(), Vec::new()], 0);
    for piece in pieces {
        if piece.get("Sequence").is_some() {
            num_texts += 1;
            continue;
        }
        let name =
            piece["SpecialToken"]["id"].as_str().ok_or_else(|| bad("a piece is neither text nor token"))?;
        let ids = template["special_tokens"][name]["ids"].as_array();
        let ids = ids.ok_or_else(|| bad(&format!("{name:?} has no ids")))?;
        for id in ids {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            around[num_texts.min(1)].push(id.ok_or_else(|| bad(&format!("{name:?} has a bad id")))?);
        }
    }
    let [before, after] = around;
    if num_texts == 1 { Ok((before, after)) } else { Err(bad("it must have the text once")) }
}

/// Checks that decoding is what it is here for a byte-level vocabulary.
pub(super) fn check_decoder(value: &Value, expected: &str) -> Refused<()> {
    match flat(value, "decoders").as_slice() {
        [decoder] if kind_of(decoder) == expected => Ok(()),
        _ => Err(format!("the decoder must be {expected}, found {}", kind_of(value))),
    }
}

/// Whether the decoder of a vocabulary with byte fallback takes away the first space.
pub(super) fn strips_first(value: &Value) -> Refused<bool> {
    let (mut strips, mut joins_bytes) = (false, false);
    for decoder in flat(value, "decoders") {
        match kind_of(decoder).as_str() {
            "Fuse" => {}
            "ByteFallback" => joins_bytes = true,
            "Replace" if decoder["pattern"]["String"] == SPACE.to_string() && decoder["content"] == " " => {}
            "Strip" if decoder["content"] == " " && decoder["start"] == 1 && decoder["stop"] == 0 => {
                strips = true;
            }
            "Metaspace" => strips |= decoder["prepend_scheme"] != "never",
            _ => return Err(format!("decoder {decoder} is not supported with byte_fallback")),
        }
    }
    if joins_bytes { Ok(strips) } else { Err("byte_fallback needs the decoder ByteFallback".to_owned()) }
}

/// The tokens of single bytes, in a vocabulary that also has the sign of a space: its own bytes are not those of a
/// space, for which it stands here.
pub(super) fn byte_tokens(vocab: &FxHashMap<String, u32>) -> Refused<[u32; 256]> {
    if !vocab.contains_key(SPACE.encode_utf8(&mut [0; 4]) as &str) {
        return Err(format!(
            "byte_fallback needs a token for the sign of a space, but {SPACE} is not in the vocabulary"
        ));
    }
    let mut ids = [0; 256];
    for (byte, id) in ids.iter_mut().enumerate() {
        let name = byte_name(byte as u8);
        *id = *vocab.get(&name).ok_or_else(|| {
            format!("byte_fallback needs a token for each byte, but {name} is not in the vocabulary")
        })?;
    }
    Ok(ids)
}

/// How files spell the token of a byte.
pub(super) fn byte_name(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}
