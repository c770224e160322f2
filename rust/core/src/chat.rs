//! Chat turns to token ids and loss mask.
//!
//! A turn is `<|role|>` content `<|end|>`; a conversation is its turns and nothing else: no token before the
//! first, none after the last. So the rendering of the first turns is always a prefix of the rendering of all,
//! and with the generation prompt `<|assistant|>` a prefix of the rendering with the answer. Content is encoded
//! on its own and cannot produce a special token.

use crate::bpe::{Allowed, Encoder, Tokenizer};
use crate::{Error, Ragged, Result};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sets the scene.
    System,
    /// Asks.
    User,
    /// Answers; the only role that is trained.
    Assistant,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::System, Self::User, Self::Assistant];

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// The role of that name.
    ///
    /// # Errors
    /// [`Error::Value`] if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
            Error::value(format!(
                "unknown role {name:?}; expected one of {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'t> {
    /// Who speaks.
    pub role: Role,
    /// What is said, verbatim.
    pub content: &'t str,
}

/// The template with the ids of one tokenizer.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'t> {
    tokenizer: &'t Tokenizer,
    roles: [u32; 3],
    end: u32,
}

/// Conversations as token rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The ids, one row for each conversation.
    pub ids: Ragged<u32>,
    /// For each id 1 if it is trained: the content of assistant turns and the `<|end|>` after it.
    pub mask: Vec<u8>,
}

impl<'t> Chat<'t> {
    /// Finds the template's special tokens.
    ///
    /// # Errors
    /// [`Error::Value`] if the tokenizer lacks one.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        let id = |name: &str| {
            tokenizer
                .special_id(&format!("<|{name}|>"))
                .map_err(|error| Error::value(format!("chat needs it: {error}")))
        };
        let [system, user, assistant] = Role::ALL.map(|role| id(role.name()));
        Ok(Self { tokenizer, roles: [system?, user?, assistant?], end: id("end")? })
    }

    /// Renders conversations, which are rows of `turns`, on `num_threads` threads (one for each processor if `None`).
    ///
    /// # Errors
    /// [`Error::Value`] if a conversation is empty, or a character tokenizer meets a character it does not have.
    pub fn render(
        &self,
        turns: &Ragged<Turn<'_>>,
        add_generation_prompt: bool,
        num_threads: Option<usize>,
    ) -> Result<Rendered> {
        if let Some(empty) = turns.rows().position(<[_]>::is_empty) {
            return Err(Error::value(format!("conversation {empty} has no messages")));
        }
        let num_bytes = |i: usize| turns.row(i).iter().map(|turn| turn.content.len()).sum();
        let render = |encoder: &mut Encoder<'_>, i: usize, rows: &mut Ragged<u32>| {
            for (at, turn) in turns.row(i).iter().enumerate() {
                rows.values.push(self.roles[turn.role as usize]);
                encoder
                    .encode(turn.content, &Allowed::default(), &mut rows.values)
                    .map_err(|error| Error::value(format!("conversation {i}, message {at}: {error}")))?;
                rows.values.push(self.end);
            }
            if add_generation_prompt {
                rows.values.push(self.roles[Role::Assistant as usize]);
            }
            rows.end_row();
            Ok(())
        };
        let ids = self.tokenizer.encode_rows(turns.len(), num_bytes, num_threads, render)?;
        let mask = self.mask(&ids.values);
        Ok(Rendered { ids, mask })
    }

    /// The mask of rendered ids. Content has no specials, so a role token always opens a turn.
    fn mask(&self, ids: &[u32]) -> Vec<u8> {
        let mut is_trained = false;
        let mark = |&id: &u32| {
            if self.roles.contains(&id) {
                is_trained = id == self.roles[Role::Assistant as usize];
                return 0;
            }
            u8::from(is_trained)
        };
        ids.iter().map(mark).collect()
    }
}
