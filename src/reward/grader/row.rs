//! Rows of an uploaded file: a line of JSON each, either a prompt to draw or messages to answer, and whatever keys its grader names.
//! Pictures stay data URLs until they are needed. Knows no file and no grader.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::domain::task::{Answer, Part, Role, Turn};
use crate::picture::decode::{self, MAX_PIXELS};

/// Most rows of a file.
pub const MAX_ROWS: usize = 50_000;
/// Longest prompt to draw, in bytes.
const MAX_PROMPT: usize = 16 << 10;
/// Most messages, and most pictures among them.
const MAX_MESSAGES: usize = 64;
const MAX_PICTURES: usize = 16;

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What templates call `item`: all keys but `messages` and `tools`.
    pub item: Arc<Map<String, Value>>,
    pub task: Task,
}

/// What a row asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Draw(String),
    /// Its pictures are data URLs.
    Ask(Answer<String>),
}

/// The lines of a file that say something, counted from 1.
pub fn lines(file: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = file.split(|&byte| byte == b'\n').enumerate().map(|(at, line)| (at + 1, line.trim_ascii()));
    lines.filter(|(_, line)| !line.is_empty())
}

/// Every line of `file` as an object.
///
/// # Errors
/// The first line that is none, or that there is none, or too many.
pub fn objects(file: &[u8]) -> Result<usize, String> {
    let mut count = 0;
    for (number, line) in lines(file) {
        object(line).map_err(|what| format!("line {number} {what}"))?;
        count += 1;
    }
    match count {
        0 => Err("it has no lines".into()),
        count if count > MAX_ROWS => Err(format!("it has {count} lines, more than {MAX_ROWS}")),
        count => Ok(count),
    }
}

fn object(line: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(line) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("is no JSON object".into()),
        Err(error) => Err(format!("is no JSON: {error}")),
    }
}

impl Row {
    /// All rows of `file`, each with its line.
    ///
    /// # Errors
    /// The first line that is no row.
    pub fn all(file: &[u8]) -> Result<Vec<(usize, Self)>, String> {
        let count = objects(file)?;
        let mut rows = Vec::with_capacity(count);
        for (number, line) in lines(file) {
            rows.push((number, Self::read(line).map_err(|what| format!("line {number} {what}"))?));
        }
        Ok(rows)
    }

    /// Reads a line; the message goes on after "line N".
    ///
    /// # Errors
    /// When it is no object with either a prompt or messages.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        let mut item = object(line)?;
        if item.remove("tools").is_some_and(|tools| !tools.is_null()) {
            return Err("has `tools`; the model calls none".into());
        }
        let task = match item.remove("messages") {
            Some(messages) => Task::Ask(conversation(&messages)?),
            None => match item.get("prompt").and_then(Value::as_str).map(str::trim) {
                Some(prompt) if prompt.len() > MAX_PROMPT => {
                    return Err(format!("has a `prompt` of more than {MAX_PROMPT} bytes"));
                }
                Some(prompt) if !prompt.is_empty() => Task::Draw(prompt.to_owned()),
                _ => return Err("has neither `prompt` (to draw) nor `messages` (to answer)".into()),
            },
        };
        Ok(Self { item: Arc::new(item), task })
    }
}

/// The conversation with its pictures.
///
/// # Errors
/// When one cannot be read.
pub fn shown(asked: &Answer<String>) -> Result<Answer, String> {
    let mut pixels = MAX_PIXELS;
    asked.clone().try_map(|url| {
        let picture = decode::data_url(&url).and_then(|file| decode::picture(&file, pixels));
        let picture = picture.map_err(|error| format!("has a picture that {error}"))?;
        pixels = pixels.saturating_sub((picture.width() * picture.height()) as u64);
        Ok(Arc::new(picture))
    })
}

fn conversation(messages: &Value) -> Result<Answer<String>, String> {
    let list = messages.as_array().filter(|list| (1..=MAX_MESSAGES).contains(&list.len()));
    let list = list.ok_or_else(|| format!("has `messages` that are no list of 1 to {MAX_MESSAGES}"))?;
    let mut answer = Answer { system: None, turns: Vec::<Turn<String>>::new() };
    let mut pictures = 0;
    for (at, message) in list.iter().enumerate() {
        let parts =
            parts(message.get("content")).map_err(|what| format!("has `messages[{at}].content` that {what}"))?;
        pictures += parts.iter().filter(|part| matches!(part, Part::Picture(_))).count();
        let role = match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => None,
            Some("user") => Some(Role::User),
            Some("assistant") => Some(Role::Assistant),
            _ => return Err(format!("has a `messages[{at}].role` that is not system, developer, user or assistant")),
        };
        if role != Some(Role::User) && parts.iter().any(|part| matches!(part, Part::Picture(_))) {
            return Err(format!("has a picture in `messages[{at}]`, which is not the user's"));
        }
        match (role, answer.turns.last_mut()) {
            (None, Some(_)) => {
                return Err(format!("has a system message at `messages[{at}]`; they can only come first"));
            }
            (None, None) => {
                let text =
                    parts.into_iter().filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None });
                let text = text.collect::<Vec<_>>().join("\n");
                let before = answer.system.take();
                answer.system = Some(before.map_or_else(|| text.clone(), |before| format!("{before}\n{text}")));
            }
            (Some(role), Some(turn)) if turn.role == role => turn.parts.extend(parts),
            (Some(role), _) => answer.turns.push(Turn { role, parts }),
        }
    }
    if pictures > MAX_PICTURES {
        return Err(format!("has {pictures} pictures, more than {MAX_PICTURES}"));
    }
    match answer.turns.last() {
        Some(Turn { role: Role::User, .. }) => Ok(answer),
        _ => Err("has `messages` whose last is not the user's; the answer is what the model learns to give".into()),
    }
}

fn parts(content: Option<&Value>) -> Result<Vec<Part<String>>, String> {
    match content {
        Some(Value::String(text)) => Ok(vec![Part::Text(text.clone())]),
        Some(Value::Array(list)) => list.iter().map(part).collect(),
        _ => Err("is neither a string nor a list of parts".into()),
    }
}

fn part(part: &Value) -> Result<Part<String>, String> {
    let text = |of: Option<&Value>| of.and_then(Value::as_str).map(str::to_owned);
    match part.get("type").and_then(Value::as_str) {
        Some("text") => text(part.get("text")).map(Part::Text).ok_or_else(|| "has a text part without `text`".into()),
        Some("image_url") => {
            let url = text(part.get("image_url").and_then(|image| image.get("url")));
            let url = url.filter(|url| url.starts_with("data:"));
            url.map(Part::Picture).ok_or_else(|| "has a picture whose `image_url.url` is no data URL".into())
        }
        _ => Err("has a part whose `type` is neither text nor image_url".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Row, String> {
        Row::read(line.as_bytes())
    }

    #[test]
    fn a_row_draws_or_answers() {
        let row = read(r#"{"prompt": " a star ", "n": 1}"#).unwrap();
        assert_eq!(row.task, Task::Draw("a star".into()));
        assert_eq!(row.item["n"], 1);
        assert!(row.item.contains_key("prompt"));
        let row = read(
            r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "What?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}], "reference_answer": "red", "tools": null}"#,
        )
        .unwrap();
        let Task::Ask(answer) = row.task else { panic!("it answers") };
        assert_eq!(answer.system.as_deref(), Some("Be brief."));
        let parts = vec![Part::Text("What?".into()), Part::Picture("data:image/png;base64,AA".into())];
        assert_eq!(answer.turns, [Turn { role: Role::User, parts }]);
        assert_eq!(row.item.keys().collect::<Vec<_>>(), ["reference_answer"]);
        assert!(shown(&answer).unwrap_err().contains("picture that"));
    }

    #[test]
    fn what_is_no_row_is_told() {
        let user = r#"{"role": "user", "content": "hi"}"#;
        for (line, told) in [
            ("[]", "no JSON object"),
            ("{", "no JSON"),
            ("{}", "neither `prompt`"),
            (r#"{"prompt": ""}"#, "neither `prompt`"),
            (r#"{"prompt": "x", "tools": []}"#, "`tools`"),
            (r#"{"messages": []}"#, "no list of 1"),
            (r#"{"messages": [{"role": "assistant", "content": "hi"}]}"#, "not the user's"),
            (r#"{"messages": [{"role": "tool", "content": "hi"}]}"#, "messages[0].role"),
            (r#"{"messages": [{"role": "user", "content": 3}]}"#, "messages[0].content"),
            (&format!(r#"{{"messages": [{user}, {{"role": "system", "content": "x"}}, {user}]}}"#), "only come first"),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]}"#,
                "no data URL",
            ),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(told), "{line}: {error}");
        }
    }

    #[test]
    fn a_file_is_named_by_its_first_bad_line() {
        assert_eq!(objects(b"{}\n\n{\"a\": 1}\r\n"), Ok(2));
        assert!(objects(b"{}\n\n3\n").unwrap_err().starts_with("line 3 is no JSON object"));
        assert!(objects(b"\n").unwrap_err().contains("no lines"));
        assert!(Row::all(b"{\"prompt\": \"x\"}\n{}").unwrap_err().starts_with("line 2 has neither"));
    }
}
