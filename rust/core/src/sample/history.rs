//! What a request has seen: its output, and how often each token occurs, as far as penalties ask for it.

use rustc_hash::FxHashMap;

use super::settings::Settings;

/// How often a token occurs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    pub(super) id: u32,
    pub(super) in_output: u32,
    pub(super) is_in_prompt: bool,
}

/// The tokens of one request so far.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    prompt_len: u64,
    output: Vec<u32>,
    counts: Vec<Count>,
    places: FxHashMap<u32, usize>,
    is_counted: bool,
}

impl History {
    pub(super) fn new(settings: &Settings, prompt: &[u32]) -> Self {
        let is_counted = settings.counts_tokens();
        let mut history = Self { prompt_len: prompt.len() as u64, is_counted, ..Self::default() };
        if settings.counts_prompt() {
            for &id in prompt {
                history.count(id).is_in_prompt = true;
            }
        }
        history
    }

    /// The place of the next token in its sequence.
    pub(super) fn position(&self) -> u64 {
        self.prompt_len + self.num_output()
    }

    pub(super) fn num_output(&self) -> u64 {
        self.output.len() as u64
    }

    pub(super) fn output(&self) -> &[u32] {
        &self.output
    }

    /// Tokens that are or were in the history.
    pub(super) fn counts(&self) -> &[Count] {
        &self.counts
    }

    pub(super) fn push(&mut self, id: u32) {
        self.output.push(id);
        if self.is_counted {
            self.count(id).in_output += 1;
        }
    }

    /// Takes back the last `n` tokens of the output, which has as many.
    pub(super) fn rollback(&mut self, n: usize) {
        for id in self.output.split_off(self.output.len() - n) {
            if self.is_counted {
                self.count(id).in_output -= 1;
            }
        }
    }

    fn count(&mut self, id: u32) -> &mut Count {
        let place = *self.places.entry(id).or_insert_with(|| {
            self.counts.push(Count { id, in_output: 0, is_in_prompt: false });
            self.counts.len() - 1
        });
        &mut self.counts[place]
    }
}

/// Applies what `settings` add to and take from single logits, each rounded to single precision, in this order: bias,
/// ramp, repetition, frequency, presence; then forbids tokens.
pub(super) fn edit(row: &mut [f32], settings: &Settings, history: &History) {
    for &(id, bias) in &settings.bias {
        row[id as usize] += bias;
    }
    if settings.stop_ramp != 0.0 {
        let ramp = settings.stop_ramp * history.num_output() as f32;
        settings.stop_ids.iter().for_each(|&id| row[id as usize] += ramp);
    }
    for count in history.counts() {
        let x = &mut row[count.id as usize];
        if settings.counts_prompt() && (count.is_in_prompt || count.in_output > 0) {
            let penalty = settings.repetition_penalty;
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
        if count.in_output > 0 {
            *x = *x - settings.frequency_penalty * count.in_output as f32 - settings.presence_penalty;
        }
    }
    let early: &[u32] = if history.num_output() < settings.min_new_tokens { &settings.stop_ids } else { &[] };
    settings.bad_ids.iter().chain(early).for_each(|&id| row[id as usize] = f32::NEG_INFINITY);
}

/// Whether [`edit`] changes anything.
pub(super) fn edits(settings: &Settings, history: &History) -> bool {
    !settings.bias.is_empty()
        || !settings.bad_ids.is_empty()
        || !history.counts().is_empty()
        || (!settings.stop_ids.is_empty()
            && (settings.stop_ramp != 0.0 || history.num_output() < settings.min_new_tokens))
}
