//! Texts with places to fill: `{{item.KEY}}` of the row, `{{sample.output_text}}` and `{{sample.output_image}}` of what the model made of
//! it. Bounded when read and when filled. Knows no grader.

use serde_json::{Map, Value};

use super::Fault;

/// Longest template, in bytes.
const LONGEST: usize = 16 << 10;
/// Most places of a template.
const MOST: usize = 64;
/// Longest text that comes of filling one, in bytes.
pub const FILLED: usize = 64 << 10;

/// See the module text.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    /// The way into the row: keys, and places of lists.
    Item(Vec<String>),
    Answer,
    Picture,
}

impl Template {
    /// Reads a template; the message says what it is (`has …`, `names …`).
    ///
    /// # Errors
    /// When it is too long or a place is none of those there are.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("has more than {LONGEST} bytes"));
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, behind) = after.split_once("}}").ok_or("has a `{{` without `}}`")?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(place(name.trim())?);
            if pieces.len() > 2 * MOST {
                return Err(format!("has more than {MOST} places"));
            }
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// It needs what the model said.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        self.0.contains(&Piece::Answer)
    }

    /// It needs what the model drew.
    #[must_use]
    pub fn wants_picture(&self) -> bool {
        self.0.contains(&Piece::Picture)
    }

    /// It stands for the picture and nothing else.
    #[must_use]
    pub fn is_picture(&self) -> bool {
        self.0 == [Piece::Picture]
    }

    /// The text with its places filled.
    ///
    /// # Errors
    /// When the row has no such key, there is no answer to fill in, or it grows too long.
    pub fn fill(&self, item: &Map<String, Value>, answer: Option<&str>) -> Result<String, Fault> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text += piece,
                Piece::Item(keys) => match find(item, keys) {
                    Some(Value::String(value)) if value.len() <= FILLED => text += value,
                    Some(Value::String(_)) => return Err(long()),
                    Some(value) => text += &value.to_string(),
                    None => return Err(Fault::Variable(format!("the row has no `item.{}`", keys.join(".")))),
                },
                Piece::Answer => {
                    text += answer.ok_or_else(|| Fault::Sample("`sample.output_text` is of answers".into()))?;
                }
                Piece::Picture => return Err(Fault::Sample("`sample.output_image` is no text".into())),
            }
            if text.len() > FILLED {
                return Err(long());
            }
        }
        Ok(text)
    }

    /// The row's own text that it stands for, whole and however long: a picture as a data URL, say.
    #[must_use]
    pub fn whole<'a>(&'a self, item: &'a Map<String, Value>) -> Option<&'a str> {
        match self.0.as_slice() {
            [Piece::Item(keys)] => find(item, keys)?.as_str(),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The first of its keys that a row lacks.
    #[must_use]
    pub fn missing(&self, item: &Map<String, Value>) -> Option<String> {
        let keys = self.0.iter().filter_map(|piece| if let Piece::Item(keys) = piece { Some(keys) } else { None });
        keys.filter(|keys| find(item, keys).is_none()).map(|keys| keys.join(".")).next()
    }
}

fn long() -> Fault {
    Fault::Other(format!("a text grows longer than {FILLED} bytes"))
}

fn place(name: &str) -> Result<Piece, String> {
    match name {
        "sample.output_text" => Ok(Piece::Answer),
        "sample.output_image" => Ok(Piece::Picture),
        _ => {
            let keys: Vec<String> = name.split('.').map(str::to_owned).collect();
            match keys.split_first() {
                Some((first, keys))
                    if first == "item" && !keys.is_empty() && keys.iter().all(|key| !key.is_empty()) =>
                {
                    Ok(Piece::Item(keys.to_vec()))
                }
                _ => Err(format!("names `{name}`; there are item.KEY, sample.output_text and sample.output_image")),
            }
        }
    }
}

fn find<'a>(item: &'a Map<String, Value>, keys: &[String]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(item.get(first)?, |value, key| match value {
        Value::Object(map) => map.get(key),
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item() -> Map<String, Value> {
        json!({"word": "red", "n": 3, "deep": {"list": ["a", "b"]}}).as_object().cloned().unwrap()
    }

    #[test]
    fn places_are_filled() {
        let fill = |text: &str| Template::read(text).unwrap().fill(&item(), Some("a star"));
        assert_eq!(fill("{{item.word}} {{ item.n }}: {{sample.output_text}}.").unwrap(), "red 3: a star.");
        assert_eq!(fill("{{item.deep.list.1}}{{item.deep.list}}").unwrap(), r#"b["a","b"]"#);
        assert_eq!(fill("plain").unwrap(), "plain");
        assert!(matches!(fill("{{item.none}}"), Err(Fault::Variable(_))));
        assert!(matches!(fill("{{item.deep.list.x}}"), Err(Fault::Variable(_))));
        assert!(matches!(fill("{{sample.output_image}}"), Err(Fault::Sample(_))));
        // What is filled in is not read again.
        let sly = json!({"word": "{{item.n}}"}).as_object().cloned().unwrap();
        assert_eq!(Template::read("{{item.word}}").unwrap().fill(&sly, None).unwrap(), "{{item.n}}");
        assert!(matches!(Template::read("{{sample.output_text}}").unwrap().fill(&sly, None), Err(Fault::Sample(_))));
    }

    #[test]
    fn what_is_no_template_is_told() {
        for bad in ["{{", "{{item}}", "{{item.}}", "{{sample.x}}", "{{}}", "{{item..a}}", &"x".repeat(LONGEST + 1)] {
            assert!(Template::read(bad).is_err(), "{bad}");
        }
        assert!(Template::read(&"{{item.a}}".repeat(200)).is_err());
        let long = json!({"a": "x".repeat(FILLED)}).as_object().cloned().unwrap();
        let twice = Template::read("{{item.a}}{{item.a}}").unwrap();
        assert!(matches!(twice.fill(&long, None), Err(Fault::Other(_))));
    }

    #[test]
    fn what_a_template_needs_is_known() {
        let read = |text| Template::read(text).unwrap();
        assert!(read("{{sample.output_image}}").is_picture() && !read("a {{sample.output_image}}").is_picture());
        assert!(read("a {{sample.output_image}}").wants_picture() && read("{{sample.output_text}}").wants_answer());
        assert_eq!(read("{{item.word}}{{item.x.y}}").missing(&item()).as_deref(), Some("x.y"));
        assert_eq!(read("{{item.word}}").whole(&item()), Some("red"));
        assert_eq!(read("{{item.word}}!").whole(&item()), None);
    }
}
