//! Statements that are sent together. SQLite runs in a thread of its own, and every statement sent to it by itself costs two changes of
//! threads, which is most of what keeping a small sample costs; there they become one. Postgres takes them one after another.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe};

use super::LedgerError;

/// What a parameter may be.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    MayText(Option<String>),
    Number(i64),
    Bytes(Vec<u8>),
}

/// Statements in the order in which they are to be run. None gives rows.
#[derive(Default)]
pub(super) struct Batch(Vec<(&'static str, Vec<Value>)>);

impl Batch {
    /// Adds a statement; its parameters are `$1`, `$2`, …
    pub fn add(&mut self, sql: &'static str, values: Vec<Value>) {
        self.0.push((sql, values));
    }

    /// Runs all of them.
    ///
    /// # Errors
    /// When one fails; those before it have been run.
    pub async fn run(self, connection: &mut AnyConnection) -> Result<(), LedgerError> {
        if connection.backend_name() != "SQLite" {
            for (sql, values) in self.0 {
                bind(sqlx::query(sql), values).execute(&mut *connection).await?;
            }
            return Ok(());
        }
        let (mut joined, mut all) = (String::new(), Vec::new());
        for (sql, values) in self.0 {
            joined += &shifted(sql, all.len());
            joined.push(';');
            all.extend(values);
        }
        if !all.is_empty() {
            bind(sqlx::query(AssertSqlSafe(joined)), all).execute(connection).await?;
        }
        Ok(())
    }
}

fn bind<'q>(query: Query<'q, Any, AnyArguments>, values: Vec<Value>) -> Query<'q, Any, AnyArguments> {
    values.into_iter().fold(query, |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::MayText(text) => query.bind(text),
        Value::Number(number) => query.bind(number),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

/// The statement with its parameters counted from `by` on.
fn shifted(sql: &str, by: usize) -> String {
    let mut parts = sql.split('$');
    let mut shifted = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (number, rest) = part.split_at(end);
        shifted += &format!("${}{rest}", number.parse::<usize>().map_or(0, |number| number + by));
    }
    shifted
}

#[cfg(test)]
mod tests {
    use super::shifted;

    #[test]
    fn parameters_are_counted_on() {
        assert_eq!(shifted("A ($1, $2) $10 B", 12), "A ($13, $14) $22 B");
        assert_eq!(shifted("A", 5), "A");
        assert_eq!(shifted("$1", 0), "$1");
    }
}
