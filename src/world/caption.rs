//! What a caption says and demands: the six categories of GenEval, one structured [`Requirement`], its text and the way back
//! from the text. Knows no pixels and no chance.

use super::scene::{Background, Colour, Shape, Size, words};

words! {
    /// The six categories of GenEval, by its names.
    Category {
        SingleObject "single_object", TwoObjects "two_object", Counting "counting",
        Colors "colors", Position "position", Attribution "color_attr",
    }
}
words! {
    /// How the first object lies to the second.
    Relation { Above "above", Below "below", LeftOf "left of", RightOf "right of" }
}

/// Number words, from one.
pub(super) const NUMBERS: [&str; 4] = ["one", "two", "three", "four"];

impl Relation {
    /// The same fact seen from the other object, and the opposite of the fact.
    #[must_use]
    pub fn inverse(self) -> Self {
        match self {
            Self::Above => Self::Below,
            Self::Below => Self::Above,
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
        }
    }

    /// One word that no place is called by: what the first of the two is.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
            Self::LeftOf => "leftmost",
            Self::RightOf => "rightmost",
        }
    }

    /// Whether it speaks of rows (above, below).
    #[must_use]
    pub fn vertical(self) -> bool {
        matches!(self, Self::Above | Self::Below)
    }
}

/// "a small red star", "three stars": so many objects of a shape, other properties as far as they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phrase {
    /// 1 to 4.
    pub count: usize,
    /// The size, if named.
    pub size: Option<Size>,
    /// The colour, if named.
    pub colour: Option<Colour>,
    /// The shape.
    pub shape: Shape,
}

/// What a picture must show to be right: all of this, and no other object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// One phrase, or two.
    pub phrases: Vec<Phrase>,
    /// How the first phrase's object lies to the second's.
    pub relation: Option<Relation>,
    /// The background, if named.
    pub background: Option<Background>,
}

/// A requirement and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// The words.
    pub text: String,
    /// Their meaning.
    pub requirement: Requirement,
}

impl From<Requirement> for Caption {
    fn from(requirement: Requirement) -> Self {
        Self { text: requirement.text(), requirement }
    }
}

impl Phrase {
    /// One object of this shape, nothing else said.
    #[must_use]
    pub fn one(shape: Shape) -> Self {
        Self { count: 1, size: None, colour: None, shape }
    }

    /// One object of this shape and colour.
    #[must_use]
    pub fn coloured(shape: Shape, colour: Colour) -> Self {
        Self { colour: Some(colour), ..Self::one(shape) }
    }

    fn text(&self) -> String {
        let noun = if self.count == 1 { self.shape.word() } else { self.shape.plural() };
        let words: Vec<&str> =
            [self.size.map(Size::word), self.colour.map(Colour::word), Some(noun)].into_iter().flatten().collect();
        let words = words.join(" ");
        match self.count {
            0 | 1 => format!("{} {words}", article(&words)),
            n => format!("{} {words}", NUMBERS[(n - 1).min(NUMBERS.len() - 1)]),
        }
    }

    /// Reads a phrase off the front of `words`.
    fn parse(words: &mut &[&str]) -> Option<Self> {
        let first = take(words)?;
        let count = match first {
            "a" | "an" => 1,
            _ => NUMBERS.iter().position(|&number| number == first)? + 1,
        };
        let mut word = take(words)?;
        let size = Size::ALL.into_iter().find(|size| size.word() == word);
        if size.is_some() {
            word = take(words)?;
        }
        let colour = Colour::ALL.into_iter().find(|colour| colour.word() == word);
        if colour.is_some() {
            word = take(words)?;
        }
        let noun = |shape: &Shape| word == if count == 1 { shape.word() } else { shape.plural() };
        let shape = Shape::ALL.into_iter().find(noun)?;
        Some(Self { count, size, colour, shape })
    }
}

impl Requirement {
    /// These phrases, no relation, any background.
    #[must_use]
    pub fn of(phrases: &[Phrase]) -> Self {
        Self { phrases: phrases.to_vec(), relation: None, background: None }
    }

    /// How many objects the picture must show.
    #[must_use]
    pub fn count(&self) -> usize {
        self.phrases.iter().map(|phrase| phrase.count).sum()
    }

    /// The category it belongs to.
    #[must_use]
    pub fn category(&self) -> Category {
        let coloured = self.phrases.iter().any(|phrase| phrase.colour.is_some());
        match self.phrases.len() {
            0 | 1 if self.count() > 1 => Category::Counting,
            0 | 1 if coloured => Category::Colors,
            0 | 1 => Category::SingleObject,
            _ if self.relation.is_some() => Category::Position,
            _ if coloured => Category::Attribution,
            _ => Category::TwoObjects,
        }
    }

    /// The caption: "a red star and a blue circle on a black background".
    #[must_use]
    pub fn text(&self) -> String {
        let link = self.relation.map_or("and", Relation::word);
        let phrases: Vec<String> = self.phrases.iter().map(Phrase::text).collect();
        let mut text = phrases.join(&format!(" {link} "));
        if let Some(background) = self.background {
            text += &format!(" on a {} background", background.word());
        }
        text
    }

    /// The meaning of a caption; `None` when it is not in this grammar. Upper case and a full stop are forgiven.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches('.').to_lowercase();
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut words = words.as_slice();
        let mut requirement = Self::of(&[Phrase::parse(&mut words)?]);
        let relation = Relation::ALL.into_iter().find_map(|r| Some((r, after(words, r.word())?)));
        let second = relation.map(|(_, rest)| rest).or_else(|| after(words, "and"));
        if let Some(rest) = second {
            words = rest;
            requirement.relation = relation.map(|(relation, _)| relation);
            requirement.phrases.push(Phrase::parse(&mut words)?);
        }
        if let Some(rest) = after(words, "on a") {
            words = rest;
            let word = take(&mut words)?;
            requirement.background = Some(Background::ALL.into_iter().find(|ground| ground.word() == word)?);
            words = after(words, "background")?;
        }
        words.is_empty().then_some(requirement)
    }
}

/// "a" or "an".
pub(super) fn article(words: &str) -> &'static str {
    if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn take<'a>(words: &mut &[&'a str]) -> Option<&'a str> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    Some(first)
}

/// What follows when `words` begin with `link`.
fn after<'a, 'b>(words: &'a [&'b str], link: &str) -> Option<&'a [&'b str]> {
    let length = link.split(' ').count();
    words.iter().copied().take(length).eq(link.split(' ')).then(|| &words[length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_naturally_and_parse_back() {
        let star = Phrase::one(Shape::Star);
        let orange = Phrase { size: Some(Size::Small), ..Phrase::coloured(Shape::Circle, Colour::Orange) };
        let cases = [
            (Requirement::of(&[star]), "a star", Category::SingleObject),
            (Requirement::of(&[star, Phrase::one(Shape::Circle)]), "a star and a circle", Category::TwoObjects),
            (Requirement::of(&[Phrase { count: 3, ..Phrase::one(Shape::Cross) }]), "three crosses", Category::Counting),
            (Requirement::of(&[Phrase::coloured(Shape::Star, Colour::Orange)]), "an orange star", Category::Colors),
            (
                Requirement { relation: Some(Relation::LeftOf), ..Requirement::of(&[star, Phrase::one(Shape::Heart)]) },
                "a star left of a heart",
                Category::Position,
            ),
            (
                Requirement { background: Some(Background::Gray), ..Requirement::of(&[orange, star]) },
                "a small orange circle and a star on a gray background",
                Category::Attribution,
            ),
        ];
        for (requirement, text, category) in cases {
            assert_eq!(requirement.text(), text);
            assert_eq!(requirement.category(), category);
            assert_eq!(Requirement::parse(text).as_ref(), Some(&requirement));
        }
        assert!(Requirement::parse("A red Star.").is_some());
        for nonsense in [
            "",
            "star",
            "a dog",
            "a star and",
            "a star and a circle and a heart",
            "two star",
            "a star on a red background",
        ] {
            assert_eq!(Requirement::parse(nonsense), None, "{nonsense}");
        }
    }
}
