//! What was stored and removed, for routers that send a request where its prefix is.

use super::trie::ROOT;

/// A log of changes of the prefix index, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// [`Self::STORED`], [`Self::REMOVED`] or [`Self::CLEARED`].
    pub kinds: Vec<u8>,
    /// Id of the entry, its name until it is removed; -1 for [`Self::CLEARED`].
    pub entries: Vec<i64>,
    /// For what was stored, the entry before it, or -1 at the beginning of a sequence; -1 otherwise.
    pub parents: Vec<i64>,
    /// The tokens of what was stored, one block after the other.
    pub tokens: Vec<u32>,
    /// The namespace of each stored entry that has no parent, in order.
    pub namespaces: Vec<Box<[u8]>>,
}

impl Events {
    /// A block of tokens can be hit from now on.
    pub const STORED: u8 = 0;
    /// It cannot any more.
    pub const REMOVED: u8 = 1;
    /// Nothing can.
    pub const CLEARED: u8 = 2;

    pub(super) fn stored(&mut self, node: u32, parent: u32, namespace: Option<&[u8]>, tokens: &[u32]) {
        self.push(Self::STORED, i64::from(node), if parent & ROOT == 0 { i64::from(parent) } else { -1 });
        self.namespaces.extend(namespace.map(Into::into));
        self.tokens.extend_from_slice(tokens);
    }

    pub(super) fn removed(&mut self, node: u32) {
        self.push(Self::REMOVED, i64::from(node), -1);
    }

    pub(super) fn cleared(&mut self) {
        self.push(Self::CLEARED, -1, -1);
    }

    fn push(&mut self, kind: u8, entry: i64, parent: i64) {
        self.kinds.push(kind);
        self.entries.push(entry);
        self.parents.push(parent);
    }
}
