//! What a checkpoint on a hub is called. Pure.

use std::fmt;
use std::str::FromStr;

/// `OWNER/NAME`, or `OWNER/NAME@REVISION`: a branch, a tag or a commit; without one, `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    pub owner: String,
    pub name: String,
    pub revision: String,
}

/// What is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a model on the hub is called OWNER/NAME, or OWNER/NAME@REVISION")]
pub struct NameError;

/// Most characters of each part.
const LONGEST: usize = 96;

/// Whether it may be part of a path and of an address as it is.
pub(super) fn is_plain(word: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !word.is_empty()
        && word.len() <= LONGEST
        && word.chars().all(fine)
        && !word.starts_with('.')
        && !word.contains("..")
}

impl FromStr for HubName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = path.split_once('/').ok_or(NameError)?;
        let fine = is_plain(owner) && is_plain(name) && revision.split('/').all(is_plain);
        let own = |word: &str| word.to_owned();
        if fine { Ok(Self { owner: own(owner), name: own(name), revision: own(revision) }) } else { Err(NameError) }
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.owner, self.name, self.revision)
    }
}

impl HubName {
    /// Whether it names one commit, which never changes.
    #[must_use]
    pub fn is_commit(&self) -> bool {
        is_hex(&self.revision, 40)
    }
}

/// So many digits in hexadecimal.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_a_revision() {
        let name: HubName = "deepseek-ai/Janus-Pro-1B".parse().unwrap();
        assert_eq!(name.to_string(), "deepseek-ai/Janus-Pro-1B@main");
        let pinned: HubName = "o/n@refs/pr/3".parse().unwrap();
        assert_eq!((pinned.revision.as_str(), pinned.is_commit()), ("refs/pr/3", false));
        assert!(format!("o/n@{}", "0a".repeat(20)).parse::<HubName>().unwrap().is_commit());
    }

    #[test]
    fn what_could_be_a_path_elsewhere_is_no_name() {
        for text in
            ["", "n", "/n", "o/", "o/n@", "../n", "o/..", "o/n/m", "./n", "o/n@../../x", "o/n@a//b", "o/n m", "~/n"]
        {
            assert_eq!(text.parse::<HubName>(), Err(NameError), "{text}");
        }
        assert!(format!("o/{}", "n".repeat(97)).parse::<HubName>().is_err());
    }
}
