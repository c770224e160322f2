//! Domains and URLs of a list, which stand for all pages below them.

use rustc_hash::FxHashSet;

use crate::dedup::canonical_url;
use crate::{Error, Result};

/// A list of domains, such as `example.org`, which stand for their subdomains too, and of URLs, such as `example.org/forum`,
/// which stand for all that is below them.
#[derive(Debug, Clone)]
pub struct Urls {
    entries: FxHashSet<String>,
}

impl Urls {
    /// Prepares a list for searching. Entries may have a scheme; it does not count.
    ///
    /// # Errors
    /// [`Error::Value`] if an entry has no host, or white space in it.
    pub fn new<T: AsRef<str>>(entries: &[T]) -> Result<Self> {
        let spell = |entry: &T| {
            let entry = entry.as_ref();
            let url = if entry.contains("://") { entry.to_owned() } else { format!("http://{entry}") };
            let spelled = canonical_url(&url);
            if spelled.is_empty() || spelled.starts_with('/') || entry.contains(char::is_whitespace) {
                return Err(Error::value(format!("expected a domain or a URL, got {entry:?}")));
            }
            Ok(spelled)
        };
        Ok(Self { entries: entries.iter().map(spell).collect::<Result<_>>()? })
    }

    /// The entry that a page belongs to, that of the highest domain first; none for what is no URL.
    pub fn find(&self, url: &str) -> Option<&str> {
        if !url.contains("://") {
            return None;
        }
        let url = canonical_url(url);
        let host = url.find(['/', '?']).unwrap_or(url.len());
        let labels = url[..host].rmatch_indices('.').map(|(dot, _)| dot + 1).chain([0]);
        labels.map(|start| &url[start..]).find_map(|url| {
            let ends = url.match_indices(['/', '?', '&']).map(|(end, _)| end).chain([url.len()]);
            ends.into_iter().find_map(|end| self.entries.get(&url[..end]).map(String::as_str))
        })
    }
}
