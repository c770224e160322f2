//! What a request asks of the sampler.

use super::mass::MAX_VOCAB;
use crate::{Error, Result};

/// How tokens are drawn. The default draws from the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// How many of the most likely tokens may be drawn; 0 for all.
    pub top_k: u32,
    /// The fewest of the most likely tokens that hold this share of the probability; 1 for all.
    pub top_p: f64,
    /// Least probability of a token, as a share of that of the best; 0 for none.
    pub min_p: f64,
    /// Most distance to the largest logit, in standard deviations of the logits; 0 for any.
    pub top_n_sigma: f64,
    /// The fewest tokens of the most typical surprisal that hold this share of the probability; 1 for all.
    pub typical_p: f64,
    /// Divides positive logits of tokens of prompt and output, and multiplies negative ones; 1 for none.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens of the output.
    pub presence_penalty: f32,
    /// Taken from them for each time they occur there.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub bias: Vec<(u32, f32)>,
    /// The only tokens that may be drawn.
    pub allowed_ids: Option<Vec<u32>>,
    /// Tokens that may not be drawn.
    pub bad_ids: Vec<u32>,
    /// How long the output must be before one of `stop_ids` may be drawn.
    pub min_new_tokens: u64,
    /// Tokens that end the output.
    pub stop_ids: Vec<u32>,
    /// Added to the logits of `stop_ids` for each token of the output.
    pub stop_ramp: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            top_n_sigma: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: Vec::new(),
            allowed_ids: None,
            bad_ids: Vec::new(),
            min_new_tokens: 0,
            stop_ids: Vec::new(),
            stop_ramp: 0.0,
        }
    }
}

impl Settings {
    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Error::Value`] that names the first that is not.
    pub fn check(&self) -> Result<()> {
        let wrong = |name: &str, range: &str, value: f64| {
            Err(Error::value(format!("{name} must be {range}, got {value}")))
        };
        if !(0.0..=f64::MAX).contains(&self.temperature) {
            return wrong("temperature", "0 or a positive number", self.temperature);
        }
        for (name, value) in [("top_p", self.top_p), ("typical_p", self.typical_p)] {
            if !(value > 0.0 && value <= 1.0) {
                return wrong(name, "above 0 and at most 1", value);
            }
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong("min_p", "from 0 to 1", self.min_p);
        }
        if !(0.0..=f64::MAX).contains(&self.top_n_sigma) {
            return wrong("top_n_sigma", "0 (off) or a positive number", self.top_n_sigma);
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty <= f32::MAX) {
            return wrong("repetition_penalty", "a positive number", f64::from(self.repetition_penalty));
        }
        let finite = [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
            ("stop_ramp", self.stop_ramp),
        ];
        for (name, value) in finite {
            if !value.is_finite() {
                return wrong(name, "finite", f64::from(value));
            }
        }
        if let Some((id, value)) = self.bias.iter().find(|(_, value)| !value.is_finite()) {
            let hint = "use bad_ids to forbid a token";
            return Err(Error::value(format!("the bias of token {id} must be finite, got {value}; {hint}")));
        }
        if self.allowed_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::value("allowed_ids must name a token, or be None to allow all"));
        }
        Ok(())
    }

    /// Whether every token that is named is in the vocabulary.
    ///
    /// # Errors
    /// [`Error::Value`] that names the first that is not.
    pub fn check_ids(&self, vocab: usize) -> Result<()> {
        let named = [
            ("bias", self.bias.iter().map(|(id, _)| *id).collect()),
            ("allowed_ids", self.allowed_ids.clone().unwrap_or_default()),
            ("bad_ids", self.bad_ids.clone()),
            ("stop_ids", self.stop_ids.clone()),
        ];
        named.iter().try_for_each(|(name, ids)| check_ids(name, ids, vocab))
    }

    pub(super) fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether `top_k` leaves out some of so many tokens.
    pub(super) fn cuts_to(&self, vocab: usize) -> bool {
        self.top_k > 0 && (self.top_k as usize) < vocab
    }

    /// Whether the logits depend on the tokens that came before.
    pub(super) fn counts_tokens(&self) -> bool {
        self.counts_prompt() || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether they depend on those of the prompt.
    pub(super) fn counts_prompt(&self) -> bool {
        (self.repetition_penalty - 1.0).abs() > 0.0
    }
}

/// # Errors
/// [`Error::Value`] if the size cannot be sampled from.
pub(super) fn check_vocab(vocab: usize) -> Result<()> {
    if vocab == 0 || vocab > MAX_VOCAB {
        return Err(Error::value(format!("vocab_size must be from 1 to {MAX_VOCAB}, got {vocab}")));
    }
    Ok(())
}

/// # Errors
/// [`Error::Value`] that names the first id outside the vocabulary.
pub(super) fn check_ids(name: &str, ids: &[u32], vocab: usize) -> Result<()> {
    ids.iter().find(|id| **id as usize >= vocab).map_or(Ok(()), |id| {
        Err(Error::value(format!("{name} has token {id}, but the vocabulary has {vocab} tokens")))
    })
}
