//! Pictures of the row groups that were asked for last, up to a number of bytes. Knows nothing of where they come from.

use std::collections::VecDeque;

/// The bytes of a row's picture, if there is one, or why they are not taken.
pub type Cell = Result<Option<Vec<u8>>, String>;

/// What is known of the pictures of a row group.
#[derive(Debug)]
pub enum Pictures {
    Held(Vec<Cell>),
    /// Too large to be held: they are read one by one.
    Large,
    /// Why none can be read; kept, so that the next row does not read it all again.
    Broken(String),
}

impl Pictures {
    fn bytes(&self) -> u64 {
        match self {
            Self::Held(cells) => cells.iter().flatten().flatten().map(|bytes| bytes.len() as u64).sum(),
            Self::Large | Self::Broken(_) => 0,
        }
    }
}

/// Row groups by a key, the one asked for last at the end.
#[derive(Debug)]
pub struct Held {
    /// Most bytes of all pictures.
    pub most: u64,
    groups: VecDeque<(usize, u64, Pictures)>,
}

impl Held {
    pub fn new(most: u64) -> Self {
        Self { most, groups: VecDeque::new() }
    }

    /// The pictures of row group `key`, which take about `bytes`; `read` where they are not held. Those that were not asked for longest
    /// go before others come.
    pub fn get(&mut self, key: usize, bytes: u64, read: impl FnOnce() -> Pictures) -> Option<&Pictures> {
        let known = self.groups.iter().position(|(of, ..)| *of == key).and_then(|at| self.groups.remove(at));
        let group = known.unwrap_or_else(|| {
            self.shrink(bytes);
            let pictures = read();
            (key, pictures.bytes(), pictures)
        });
        self.shrink(group.1);
        self.groups.push_back(group);
        self.groups.back().map(|(.., pictures)| pictures)
    }

    /// Makes room for `bytes`.
    fn shrink(&mut self, bytes: u64) {
        let mut all: u64 = self.groups.iter().map(|(_, bytes, _)| bytes).sum();
        while all.saturating_add(bytes) > self.most {
            let Some((_, bytes, _)) = self.groups.pop_front() else { break };
            all -= bytes;
        }
    }
}
